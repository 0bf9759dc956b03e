# RetinaNet, ResT-small, COCO 1x: 40.3 AP (authors' result, not measured here).
_base_ = [
    './_base_/models/retinanet_rest.py',
    './_base_/datasets/coco_detection.py',
    './_base_/schedules/coco_1x.py',
    './_base_/det_runtime.py',
]
# The authors' detection code normalises outputs in the trunk; their result is that network's.
model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://rest_small'), out_norm='trunk'
    )
)
