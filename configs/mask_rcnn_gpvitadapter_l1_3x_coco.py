# Mask R-CNN, GPViT-L1 with a ViT-Adapter, COCO 3x: 50.2 box AP, 44.3 mask AP (authors' result, not
# measured here).
_base_ = [
    './_base_/models/mask_rcnn_gpvit.py',
    './_base_/datasets/coco_instance_crops_1024.py',
    './_base_/schedules/gpvit_coco_3x.py',
    './_base_/det_runtime.py',
]
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='mmrest://gpvit_l1')))
