# Mask R-CNN, Twins-PCPVT-small, COCO 3x: 46.8 box AP, 42.6 mask AP (authors' result, not measured
# here).
_base_ = [
    './_base_/models/mask_rcnn_rest.py',
    './_base_/datasets/coco_instance_crops.py',
    './_base_/schedules/twins_coco_3x.py',
    './_base_/det_runtime.py',
]
model = dict(
    # as the authors
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        _delete_=True,
        type='mmrest.TwinsPCPVT',
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinspcpvt_small'),
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
