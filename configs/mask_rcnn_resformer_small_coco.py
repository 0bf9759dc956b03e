# Mask R-CNN, ResFormer-small, 3x: 46.4 box AP, 40.7 mask AP (authors' result, not measured here).
# What the authors did not publish is ours: the image sizes and the crop (those of ResTv2), window
# size, global blocks and optimizer (those of ViTDet). As they, train with --amp.
_base_ = [
    './_base_/models/mask_rcnn_resformer.py',
    './_base_/datasets/coco_instance_480_800.py',
    './_base_/schedules/vit_coco_3x.py',
    './_base_/det_runtime.py',
]
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='mmrest://resformer_small')))
