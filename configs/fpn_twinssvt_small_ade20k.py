# Semantic FPN, Twins-SVT-small, ADE20K 80k: 43.2 mIoU (authors' result, not measured here).
_base_ = [
    './_base_/models/fpn.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/twins_ade20k_80k.py',
    './_base_/seg_runtime.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.TwinsSVT',
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinssvt_small'),
        # as the authors' segmentation code, which tests images of any size
        sizes='floor',
        windows='masked',
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
# on each of 8 GPUs
train_dataloader = dict(batch_size=4)
