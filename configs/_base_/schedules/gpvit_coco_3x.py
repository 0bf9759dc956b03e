# 36 epochs of COCO, otherwise as gpvit_coco_1x.py. The authors' schedule file is not in their
# repository; the steps are those of mmdet's schedules of 36 epochs.
_base_ = ['./gpvit_coco_1x.py']
train_cfg = dict(max_epochs=36)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
