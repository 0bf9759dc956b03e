# Semantic FPN, P2T-small, ADE20K 80k: 46.7 mIoU (authors' result, not measured here).
_base_ = [
    './_base_/models/fpn.py',
    './_base_/datasets/ade20k_aligned.py',
    './_base_/schedules/p2t_ade20k_80k.py',
    './_base_/seg_runtime.py',
]
# The authors' weights are for non-commercial use alone (CC BY-NC-SA 4.0).
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.P2T',
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://p2t_small'),
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
