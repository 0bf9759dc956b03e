# Semantic FPN, P2T-large, ADE20K 80k: 49.4 mIoU (authors' result, not measured here).
_base_ = ['./fpn_p2t_small_ade20k.py']
model = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://p2t_large'),
        drop_path_rate=0.3,
    ),
    neck=dict(in_channels=[64, 128, 320, 640]),
)
optim_wrapper = dict(clip_grad=dict(max_norm=35.0))
