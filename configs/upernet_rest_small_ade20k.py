# UPerNet, ResT-small, ADE20K 160k: the paper has no result, the settings are ours.
_base_ = [
    './_base_/models/upernet_rest.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/ade20k_160k.py',
    './_base_/seg_runtime.py',
]
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='mmrest://rest_small')))
