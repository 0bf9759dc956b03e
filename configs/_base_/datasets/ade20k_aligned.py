# ADE20K; the sides of test images are resized to multiples of 32, as the authors of PVT, P2T and
# GPViT do.
_base_ = ['./ade20k.py']
test_pipeline = _base_.test_pipeline
test_pipeline.insert(2, dict(type='ResizeToMultiple', size_divisor=32))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
