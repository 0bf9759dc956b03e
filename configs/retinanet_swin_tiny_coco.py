# RetinaNet, Swin-tiny, COCO 1x: no result of the authors.
_base_ = [
    './_base_/models/retinanet_rest.py',
    './_base_/datasets/coco_detection_crops.py',
    './_base_/schedules/swin_coco_1x.py',
    './_base_/det_runtime.py',
]
# Ours: the recipe of Mask R-CNN.
model = dict(
    # as the authors
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        _delete_=True,
        type='mmrest.Swin',
        arch='tiny',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://swin_tiny'),
        out_indices=(1, 2, 3),
        out_norm='branch',
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[192, 384, 768]),
)
