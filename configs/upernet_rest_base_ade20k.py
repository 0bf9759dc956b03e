# UPerNet, ResT-base, ADE20K 160k: the paper has no result, the settings are ours.
_base_ = ['./upernet_restv2_tiny_ade20k.py']
model = dict(backbone=dict(type='mmrest.ResT', arch='base', drop_path_rate=0.2))
