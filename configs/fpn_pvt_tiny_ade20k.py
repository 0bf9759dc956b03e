# Semantic FPN, PVT-tiny, ADE20K 40k: 35.7 mIoU (authors' result, not measured here).
_base_ = ['./fpn_pvt_small_ade20k.py']
model = dict(
    backbone=dict(arch='tiny', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvt_tiny'))
)
