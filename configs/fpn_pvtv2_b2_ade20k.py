# Semantic FPN, PVTv2-b2, ADE20K 40k: the recipe of PVT's, no result quoted.
_base_ = [
    './_base_/models/fpn.py',
    './_base_/datasets/ade20k_aligned.py',
    './_base_/schedules/pvt_ade20k_40k.py',
    './_base_/seg_runtime.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.PVTV2',
        arch='b2',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvtv2_b2'),
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
# on each of 8 GPUs
train_dataloader = dict(batch_size=4)
