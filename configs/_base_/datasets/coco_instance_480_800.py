# COCO with instance masks, short side 480 to 800: ResTv2's sizes for Mask R-CNN.
_base_ = ['./coco_instance.py']
train_pipeline = [
    *_base_.train_pipeline[:4],
    dict(
        type='RandomChoiceResize',
        scales=[(1333, short) for short in (480, 512, 534, 576, 640, 672, 704, 736, 768, 800)],
        keep_ratio=True,
    ),
    *_base_.train_pipeline[5:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
