# Semantic FPN, P2T-tiny, ADE20K 80k: 43.4 mIoU (authors' result, not measured here).
_base_ = ['./fpn_p2t_small_ade20k.py']
model = dict(
    backbone=dict(arch='tiny', init_cfg=dict(type='Pretrained', checkpoint='mmrest://p2t_tiny')),
    neck=dict(in_channels=[48, 96, 240, 384]),
)
