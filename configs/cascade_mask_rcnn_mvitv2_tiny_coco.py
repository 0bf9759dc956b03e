# Cascade, MViTv2-tiny, COCO 3x: 52.2 box AP, 45.0 mask AP (authors' result, not measured here).
_base_ = [
    './_base_/models/cascade_mask_rcnn_mvitv2.py',
    './_base_/datasets/coco_instance_crops_filtered.py',
    './_base_/schedules/mvitv2_coco_3x.py',
    './_base_/det_runtime.py',
]
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='mmrest://mvitv2_tiny')))
