# Cascade Mask R-CNN, CSWin-tiny, COCO 3x: 52.5 box AP, 45.3 mask AP (authors' result, not measured
# here).
_base_ = [
    './_base_/models/cascade_mask_rcnn.py',
    './_base_/datasets/coco_instance_multiscale.py',
    './_base_/schedules/swin_coco_3x.py',
    './_base_/det_runtime.py',
]
model = dict(
    # as the authors
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        _delete_=True,
        type='mmrest.CSWin',
        arch='tiny',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://cswin_tiny'),
        out_norm='branch',
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
