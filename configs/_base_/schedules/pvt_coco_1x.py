# 12 epochs of COCO at batch 16 with a decay of 1e-4 on everything: the authors of PVT, PVTv2, Twins
# and P2T.
_base_ = ['./coco_1x.py']
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4), paramwise_cfg=dict(_delete_=True))
