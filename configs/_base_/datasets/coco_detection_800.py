# COCO with the short side at 800 and the long side up to 1333, as mmdet's own configs.
_base_ = ['./coco_detection.py']
train_pipeline = _base_.train_pipeline
train_pipeline[2].scales = [(1333, 800)]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
