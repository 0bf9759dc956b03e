# RetinaNet, ResT-small, COCO 1x: 40.3 AP (authors' result, not measured here).
_base_ = [
    './_base_/models/retinanet_rest.py',
    './_base_/datasets/coco_detection.py',
    './_base_/schedules/coco_1x.py',
    './_base_/det_runtime.py',
]
# To start from the authors' ImageNet weights:
#   --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
# The authors' detection code normalises outputs in the trunk; their result is that network's.
model = dict(backbone=dict(out_norm='trunk'))
