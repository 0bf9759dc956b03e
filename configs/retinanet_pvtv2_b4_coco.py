# RetinaNet, PVTv2-b4, COCO 1x: 46.1 AP (authors' result, not measured here).
_base_ = ['./retinanet_pvtv2_b2_coco.py']
model = dict(
    backbone=dict(arch='b4', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvtv2_b4'))
)
optim_wrapper = dict(optimizer=dict(lr=1e-4 / 1.4))
# one image on each of 8 GPUs
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)
