# Cascade Mask R-CNN, Swin-tiny, COCO 3x: 50.4 box AP, 43.7 mask AP (authors' result, not measured
# here).
_base_ = [
    './_base_/models/cascade_mask_rcnn.py',
    './_base_/datasets/coco_instance_crops.py',
    './_base_/schedules/swin_coco_3x.py',
    './_base_/det_runtime.py',
]
model = dict(
    # as the authors
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        _delete_=True,
        type='mmrest.Swin',
        arch='tiny',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://swin_tiny'),
        out_norm='branch',
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
