# COCO with instance masks, augmented as `coco_instance_crops.py`; instances of which no pixel of a
# mask is left are dropped. detectron2 drops those of which a crop leaves no polygon.
_base_ = ['./coco_instance_crops.py']
train_pipeline = _base_.train_pipeline
train_pipeline.insert(
    3,
    dict(
        type='FilterAnnotations',
        min_gt_bbox_wh=(1e-2, 1e-2),
        by_mask=True,
        keep_empty=False,
    ),
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
