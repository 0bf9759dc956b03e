# Mask R-CNN, a ResFormer of half the depth of tiny, the built-in shapes: from random weights in
# minutes on two processor cores. Pictures are larger than for ResT, since a patch has 16 pixels.
_base_ = ['./mask_rcnn_rest_lite_shapes.py']
norm_cfg = dict(type='GN', num_groups=16)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.ResFormer',
        arch=dict(embed_dims=192, depth=6, num_heads=3, mlp_ratio=4),
        pyramid='simple',
        drop_path_rate=0.0,
    ),
    neck=dict(
        _delete_=True,
        type='mmrest.SimpleFPN',
        in_channels=[192, 192, 192, 192],
        out_channels=96,
        num_outs=4,
        norm_cfg=norm_cfg,
    ),
)
train_pipeline = [
    dict(type='LoadImageFromFile', backend_args=_base_.backend_args),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='RandomChoiceResize',
        scales=[(256, short) for short in (120, 128, 136)],
        keep_ratio=True,
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (256, 128)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'cls_token': dict(decay_mult=0.0)}))
