# Semantic FPN, Twins-PCPVT-base, ADE20K 80k: 44.9 mIoU (authors' result, not measured here).
_base_ = ['./fpn_twinspcpvt_small_ade20k.py']
model = dict(
    backbone=dict(
        arch='base', init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinspcpvt_base')
    )
)
