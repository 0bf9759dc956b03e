# RetinaNet, GPViT-L1 with a ViT-Adapter, COCO 1x: 45.8 AP (authors' result, not measured here).
_base_ = [
    './_base_/models/retinanet_gpvit.py',
    './_base_/datasets/coco_detection_800.py',
    './_base_/schedules/gpvit_coco_1x.py',
    './_base_/det_runtime.py',
]
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='mmrest://gpvit_l1')))
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
