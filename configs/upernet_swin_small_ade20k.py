# UPerNet, Swin-small, ADE20K 160k: the authors' recipe, no result quoted.
_base_ = ['./upernet_swin_tiny_ade20k.py']
model = dict(
    backbone=dict(arch='small', init_cfg=dict(type='Pretrained', checkpoint='mmrest://swin_small'))
)
