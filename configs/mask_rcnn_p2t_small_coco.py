# Mask R-CNN, P2T-small, COCO 1x: 45.5 box AP, 41.4 mask AP (authors' result, not measured here).
_base_ = [
    './_base_/models/mask_rcnn_rest.py',
    './_base_/datasets/coco_instance_800.py',
    './_base_/schedules/pvt_coco_1x.py',
    './_base_/det_runtime.py',
]
# The authors' weights are for non-commercial use alone (CC BY-NC-SA 4.0).
model = dict(
    # as the authors
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        _delete_=True,
        type='mmrest.P2T',
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://p2t_small'),
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
