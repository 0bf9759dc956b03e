# The built-in data set, in ADE20K's layout; the command lines in tools/ make it when it is not
# there.
_base_ = ['./ade20k.py']
data_root = 'data/shapes/'
built_in_data = dict(type='shapes', root=data_root)
metainfo = dict(
    classes=('background', 'disc', 'ring', 'triangle', 'bar', 'star'),
    palette=[
        [60, 60, 60],
        [220, 20, 60],
        [0, 170, 90],
        [40, 90, 255],
        [255, 165, 0],
        [160, 60, 220],
    ],
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomChoiceResize',
        scales=[(192, short) for short in (56, 64, 72, 80)],
        keep_ratio=True,
    ),
    dict(type='RandomCrop', crop_size=(72, 88)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (192, 80)
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[0] = [
    dict(type='Resize', scale=(192, short), keep_ratio=True) for short in (96, 112, 128)
]

# Small pictures load faster than another process hands them over.
in_process = dict(num_workers=0, persistent_workers=False)
dataset = dict(
    type='BaseSegDataset', data_root=data_root, metainfo=metainfo, reduce_zero_label=True
)
train_dataloader = dict(
    batch_size=8, dataset=dict(pipeline=train_pipeline, **dataset), **in_process
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, **dataset), **in_process)
test_dataloader = val_dataloader
