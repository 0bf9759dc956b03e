# RetinaNet, ResT-lite, COCO 1x: no result of the paper.
_base_ = ['./retinanet_rest_small_coco.py']
model = dict(
    backbone=dict(arch='lite', init_cfg=dict(type='Pretrained', checkpoint='mmrest://rest_lite'))
)
