# Semantic FPN, CSWin-tiny, ADE20K 80k: 48.2 mIoU (authors' result, not measured here).
_base_ = [
    './_base_/models/fpn.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/sem_fpn_80k.py',
    './_base_/seg_runtime.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.CSWin',
        arch='tiny',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://cswin_tiny'),
        out_norm='branch',
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
