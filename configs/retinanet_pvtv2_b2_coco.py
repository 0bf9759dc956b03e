# RetinaNet, PVTv2-b2, COCO 1x: 44.6 AP (authors' result, not measured here).
_base_ = [
    './_base_/models/retinanet_rest.py',
    './_base_/datasets/coco_detection_800.py',
    './_base_/schedules/pvt_coco_1x.py',
    './_base_/det_runtime.py',
]
model = dict(
    # as the authors
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        _delete_=True,
        type='mmrest.PVTV2',
        arch='b2',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://pvtv2_b2'),
        out_indices=(1, 2, 3),
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[128, 320, 512]),
)
