# RetinaNet, GPViT-L1 with a ViT-Adapter, COCO 3x: 48.1 AP (authors' result, not measured here).
_base_ = [
    './_base_/models/retinanet_gpvit.py',
    './_base_/datasets/coco_detection_crops_1024.py',
    './_base_/schedules/gpvit_coco_3x.py',
    './_base_/det_runtime.py',
]
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='mmrest://gpvit_l1')))
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
