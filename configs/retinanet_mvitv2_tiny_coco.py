# RetinaNet, MViTv2-tiny, COCO 3x. Ours: the authors have no RetinaNet; data and schedule are
# those of their Mask R-CNN, without masks.
_base_ = [
    './_base_/models/retinanet_rest.py',
    './_base_/datasets/coco_detection_crops.py',
    './_base_/schedules/mvitv2_coco_3x.py',
    './_base_/det_runtime.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.MViTV2',
        arch='tiny',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://mvitv2_tiny'),
        attention='hwin',
        out_indices=(1, 2, 3),
        out_norm='branch',
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[192, 384, 768]),
)
