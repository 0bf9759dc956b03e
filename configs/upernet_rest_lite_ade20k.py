# UPerNet, ResT-lite, ADE20K 160k: the paper has no result, the settings are ours.
_base_ = ['./upernet_rest_small_ade20k.py']
model = dict(
    backbone=dict(arch='lite', init_cfg=dict(type='Pretrained', checkpoint='mmrest://rest_lite'))
)
