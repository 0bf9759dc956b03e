# UPerNet, ResTv2-tiny, ADE20K 160k: 47.3 mIoU (authors' result, not measured here).
# Theirs is of several scales and flips.
_base_ = [
    './_base_/models/upernet_rest.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/ade20k_160k.py',
    './_base_/seg_runtime.py',
]
model = dict(
    backbone=dict(
        type='mmrest.ResTV2',
        arch='tiny',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://restv2_tiny'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
