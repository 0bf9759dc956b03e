# RetinaNet, PVT-medium, COCO 1x: 41.9 AP (authors' result, not measured here).
_base_ = ['./retinanet_pvt_small_coco.py']
model = dict(
    backbone=dict(
        arch='medium',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvt_medium'),
        # none in the authors' detection code, for the larger two
        drop_path_rate=0.0,
    )
)
