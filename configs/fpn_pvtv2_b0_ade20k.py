# Semantic FPN, PVTv2-b0, ADE20K 40k: the recipe of PVT's, no result quoted.
_base_ = ['./fpn_pvtv2_b2_ade20k.py']
model = dict(
    backbone=dict(arch='b0', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvtv2_b0')),
    neck=dict(in_channels=[32, 64, 160, 256]),
)
