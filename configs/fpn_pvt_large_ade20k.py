# Semantic FPN, PVT-large, ADE20K 40k: 42.1 mIoU (authors' result, not measured here).
_base_ = ['./fpn_pvt_small_ade20k.py']
model = dict(
    backbone=dict(arch='large', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvt_large'))
)
