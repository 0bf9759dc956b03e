# Semantic FPN, Twins-PCPVT-small, ADE20K 80k: 44.3 mIoU (authors' result, not measured here).
_base_ = [
    './_base_/models/fpn.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/twins_ade20k_80k.py',
    './_base_/seg_runtime.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.TwinsPCPVT',
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinspcpvt_small'),
        # as the authors' segmentation code, which tests images of any size
        sizes='floor',
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
# on each of 8 GPUs
train_dataloader = dict(batch_size=4)
