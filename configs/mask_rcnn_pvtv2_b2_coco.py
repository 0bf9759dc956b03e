# Mask R-CNN, PVTv2-b2, COCO 1x: 45.3 box AP, 41.2 mask AP (authors' result, not measured here).
_base_ = [
    './_base_/models/mask_rcnn_rest.py',
    './_base_/datasets/coco_instance_800.py',
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
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
