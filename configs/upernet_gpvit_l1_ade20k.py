# UPerNet, GPViT-L1, ADE20K 160k: 49.1 mIoU (authors' result, not measured here).
_base_ = [
    './_base_/models/upernet_rest.py',
    './_base_/datasets/ade20k_aligned.py',
    './_base_/schedules/gpvit_ade20k_160k.py',
    './_base_/seg_runtime.py',
]
# All maps are at stride 8.
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.GPViT',
        arch='l1',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://gpvit_l1'),
        out_norm='branch',
        # the authors convert all BatchNorms
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        drop_path_rate=0.1,
    ),
    decode_head=dict(in_channels=[216, 216, 216, 216]),
    # of the last map
    auxiliary_head=dict(in_channels=216, in_index=3),
)
