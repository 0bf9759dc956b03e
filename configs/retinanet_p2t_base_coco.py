# RetinaNet, P2T-base, COCO 1x: 46.1 AP (authors' result, not measured here).
_base_ = ['./retinanet_p2t_small_coco.py']
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://p2t_base'),
        drop_path_rate=0.3,
    )
)
