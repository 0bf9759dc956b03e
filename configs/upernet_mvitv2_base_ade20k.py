# UPerNet, MViTv2-base, ADE20K 160k. Ours, as that of MViTv2-tiny.
_base_ = ['./upernet_mvitv2_tiny_ade20k.py']
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://mvitv2_base'),
        drop_path_rate=0.4,
    )
)
