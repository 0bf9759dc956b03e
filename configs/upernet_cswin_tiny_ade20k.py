# UPerNet, CSWin-tiny, ADE20K 160k: 49.3 mIoU (authors' result, not measured here).
_base_ = [
    './_base_/models/upernet_rest.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/ade20k_160k.py',
    './_base_/seg_runtime.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.CSWin',
        arch='tiny',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://cswin_tiny'),
        out_norm='branch',
        drop_path_rate=0.3,
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
