# Semantic FPN, P2T-base, ADE20K 80k: 48.7 mIoU (authors' result, not measured here).
_base_ = ['./fpn_p2t_small_ade20k.py']
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://p2t_base'),
        drop_path_rate=0.3,
    )
)
optim_wrapper = dict(clip_grad=dict(max_norm=35.0))
