# Mask R-CNN, Twins-SVT-small, COCO 1x: 43.4 box AP, 40.3 mask AP (authors' result, not measured
# here).
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
        type='mmrest.TwinsSVT',
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinssvt_small'),
        windows='padded',
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
