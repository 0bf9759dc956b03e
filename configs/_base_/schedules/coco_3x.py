# 36 epochs of COCO at batch 16, as the authors of ResTv2: steps near 210k and 250k of 270k.
_base_ = ['./coco_1x.py']
train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[28, 33], gamma=0.1),
]
