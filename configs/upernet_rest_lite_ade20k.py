# UPerNet, ResT-lite, ADE20K 160k: the paper has no result, the settings are ours.
_base_ = ['./upernet_restv2_tiny_ade20k.py']
model = dict(
    backbone=dict(type='mmrest.ResT', arch='lite', drop_path_rate=0.1),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
