# SegFormer head, GPViT-L2, ADE20K 160k: 49.2 mIoU (authors' result, not measured here).
_base_ = ['./segformer_gpvit_l1_ade20k.py']
model = dict(
    backbone=dict(arch='l2', init_cfg=dict(type='Pretrained', checkpoint='mmrest://gpvit_l2')),
    decode_head=dict(in_channels=[348, 348, 348, 348]),
)
