# Semantic FPN, PVTv2-b5, ADE20K 40k: the recipe of PVT's, no result quoted.
_base_ = ['./fpn_pvtv2_b2_ade20k.py']
model = dict(
    backbone=dict(arch='b5', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvtv2_b5'))
)
