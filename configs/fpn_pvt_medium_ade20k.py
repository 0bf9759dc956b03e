# Semantic FPN, PVT-medium, ADE20K 40k: 41.6 mIoU (authors' result, not measured here).
_base_ = ['./fpn_pvt_small_ade20k.py']
model = dict(
    backbone=dict(arch='medium', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvt_medium'))
)
