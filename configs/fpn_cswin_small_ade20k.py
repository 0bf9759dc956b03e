# Semantic FPN, CSWin-small, ADE20K 80k: 49.2 mIoU (authors' result, not measured here).
_base_ = ['./fpn_cswin_tiny_ade20k.py']
model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://cswin_small'),
        drop_path_rate=0.3,
    )
)
