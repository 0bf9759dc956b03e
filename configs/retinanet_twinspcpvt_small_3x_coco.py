# RetinaNet, Twins-PCPVT-small, COCO 3x: 45.2 AP (authors' result, not measured here).
_base_ = [
    './_base_/models/retinanet_rest.py',
    './_base_/datasets/coco_detection_crops.py',
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
        out_indices=(1, 2, 3),
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[128, 320, 512]),
)
# the authors have mixed precision in Mask R-CNN alone
optim_wrapper = dict(type='OptimWrapper')
