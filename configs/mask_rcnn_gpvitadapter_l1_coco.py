# Mask R-CNN, GPViT-L1 with a ViT-Adapter, COCO 1x: 48.1 box AP, 42.7 mask AP (authors' result, not
# measured here).
_base_ = [
    './_base_/models/mask_rcnn_gpvit.py',
    './_base_/datasets/coco_instance_800.py',
    './_base_/schedules/gpvit_coco_1x.py',
    './_base_/det_runtime.py',
]
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='mmrest://gpvit_l1')))
