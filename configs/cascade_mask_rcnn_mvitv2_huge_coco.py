# Cascade, MViTv2-huge, COCO, LSJ: 56.1 box AP, 48.5 mask AP (authors' result, not measured here).
_base_ = [
    './_base_/models/cascade_mask_rcnn_mvitv2.py',
    './_base_/datasets/coco_instance_lsj_1024.py',
    './_base_/schedules/mvitv2_coco_3x.py',
    './_base_/det_runtime.py',
]
model = dict(
    data_preprocessor=dict(
        # every image is padded to the square that it was cropped from
        batch_augments=[
            dict(
                type='BatchFixedSizePad',
                size=(1024, 1024),
                img_pad_value=0,
                pad_mask=True,
                mask_pad_value=0,
            )
        ]
    ),
    backbone=dict(
        arch='huge_cls',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://mvitv2_huge_cls_imagenet22k'),
        drop_path_rate=0.6,
        with_cp=True,
    ),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
