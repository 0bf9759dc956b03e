# SegFormer head, GPViT-L4, ADE20K 160k: 51.3 mIoU (authors' result, not measured here).
_base_ = ['./segformer_gpvit_l1_ade20k.py']
model = dict(
    backbone=dict(
        arch='l4',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://gpvit_l4'),
        drop_path_rate=0.2,
    ),
    decode_head=dict(in_channels=[624, 624, 624, 624]),
)
