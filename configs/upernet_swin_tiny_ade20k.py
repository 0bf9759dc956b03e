# UPerNet, Swin-tiny, ADE20K 160k: the authors' recipe, no result quoted.
_base_ = [
    './_base_/models/upernet_rest.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/swin_ade20k_160k.py',
    './_base_/seg_runtime.py',
]
# Drop path is as in mmseg's configs.
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.Swin',
        arch='tiny',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://swin_tiny'),
        out_norm='branch',
        drop_path_rate=0.3,
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
