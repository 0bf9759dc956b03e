# Mask R-CNN, ResT-small, COCO 1x: 39.6 box AP, 37.2 mask AP (authors' result, not measured here).
_base_ = [
    './_base_/models/mask_rcnn_rest.py',
    './_base_/datasets/coco_instance.py',
    './_base_/schedules/coco_1x.py',
    './_base_/det_runtime.py',
]
# The authors' detection code normalises outputs in the trunk; their result is that network's.
model = dict(
    backbone=dict(
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://rest_small'), out_norm='trunk'
    )
)
optim_wrapper = dict(clip_grad=dict(max_norm=0.01))
