# Mask R-CNN, PVT-large, COCO 1x: 42.9 box AP, 39.5 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_pvt_small_coco.py']
model = dict(
    backbone=dict(
        arch='large',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvt_large'),
        # none in the authors' detection code, for the larger two
        drop_path_rate=0.0,
    )
)
optim_wrapper = dict(optimizer=dict(lr=2e-4 / 1.4))
# one image on each of 8 GPUs
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)
