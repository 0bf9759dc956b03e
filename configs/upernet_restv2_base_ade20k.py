# UPerNet, ResTv2-base, ADE20K 160k: 49.6 mIoU (authors' result, not measured here).
# Theirs is of several scales and flips.
_base_ = ['./upernet_restv2_small_ade20k.py']
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://restv2_base'),
        drop_path_rate=0.3,
    )
)
