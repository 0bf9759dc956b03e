# Mask R-CNN, PVT-medium, COCO 1x: 42.0 box AP, 39.0 mask AP (authors' result, not measured here).
_base_ = ['./mask_rcnn_pvt_small_coco.py']
model = dict(
    backbone=dict(
        arch='medium',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvt_medium'),
        # none in the authors' detection code, for the larger two
        drop_path_rate=0.0,
    )
)
