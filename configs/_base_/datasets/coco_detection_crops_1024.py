# COCO, augmented as in GPViT's 3x configs: as coco_detection_crops.py, then cropped to at most
# 1024x1024 pixels.
_base_ = ['./coco_detection_crops.py']
train_pipeline = _base_.train_pipeline
# the long side is limited here
train_pipeline[2].transforms[1][0].scales = [(1333, short) for short in (400, 500, 600)]
train_pipeline.insert(
    3,
    dict(
        type='RandomCrop',
        crop_type='absolute_range',
        crop_size=(1024, 1024),
        allow_negative_crop=True,
    ),
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
