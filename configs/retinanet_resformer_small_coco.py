# RetinaNet, ResFormer-small, COCO 3x; no paper did this, the settings are those of Mask R-CNN here.
_base_ = [
    './_base_/models/retinanet_rest.py',
    './_base_/datasets/coco_detection.py',
    './_base_/schedules/vit_coco_3x.py',
    './_base_/det_runtime.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.ResFormer',
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://resformer_small'),
        pyramid='simple',
        out_indices=(1, 2, 3),
        window_size=14,
        global_blocks=(2, 5, 8, 11),
        drop_path_rate=0.1,
    ),
    neck=dict(
        _delete_=True,
        type='mmrest.SimpleFPN',
        in_channels=[384, 384, 384],
        out_channels=256,
        num_outs=5,
        norm_cfg=dict(type='mmrest.LayerNorm2d', eps=1e-6),
    ),
)
