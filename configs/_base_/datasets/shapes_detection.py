# The built-in data set, in COCO's layout; the command lines in tools/ make it when it is not there.
_base_ = ['./coco_detection.py']
data_root = 'data/shapes/'
built_in_data = dict(type='shapes', root=data_root)
metainfo = dict(
    classes=('disc', 'ring', 'triangle', 'bar', 'star'),
    palette=[(220, 20, 60), (0, 170, 90), (40, 90, 255), (255, 165, 0), (160, 60, 220)],
)

train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='RandomChoiceResize',
        scales=[(192, short) for short in (88, 96, 104)],
        keep_ratio=True,
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (192, 96)
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[0] = [
    dict(type='Resize', scale=(192, short), keep_ratio=True) for short in (96, 128)
]

# Small pictures load faster than another process hands them over.
in_process = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline),
    **in_process,
)
val_dataloader = dict(
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline), **in_process
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
