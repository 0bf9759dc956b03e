# Mask R-CNN, PVTv2-b5, COCO 1x: 47.4 box AP, 42.5 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_pvtv2_b2_coco.py']
model = dict(
    backbone=dict(arch='b5', init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvtv2_b5'))
)
optim_wrapper = dict(optimizer=dict(lr=2e-4 / 1.4))
# one image on each of 8 GPUs
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)
