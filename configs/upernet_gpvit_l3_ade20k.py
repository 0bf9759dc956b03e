# UPerNet, GPViT-L3, ADE20K 160k: 51.7 mIoU (authors' result, not measured here).
_base_ = ['./upernet_gpvit_l1_ade20k.py']
model = dict(
    backbone=dict(
        arch='l3',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://gpvit_l3'),
        drop_path_rate=0.2,
    ),
    decode_head=dict(in_channels=[432, 432, 432, 432]),
    auxiliary_head=dict(in_channels=432),
)
