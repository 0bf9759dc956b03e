# UPerNet, Twins-PCPVT-large, ADE20K 160k: 48.6 mIoU (authors' result, not measured here).
_base_ = ['./upernet_twinspcpvt_small_ade20k.py']
model = dict(
    backbone=dict(
        arch='large', init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinspcpvt_large')
    )
)
train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(base_batch_size=16)
