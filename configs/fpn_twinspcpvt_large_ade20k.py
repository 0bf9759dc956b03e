# Semantic FPN, Twins-PCPVT-large, ADE20K 80k: 46.4 mIoU (authors' result, not measured here).
_base_ = ['./fpn_twinspcpvt_small_ade20k.py']
model = dict(
    backbone=dict(
        arch='large', init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinspcpvt_large')
    )
)
