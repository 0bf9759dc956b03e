# RetinaNet, a small GPViT, the built-in shapes: a training from random weights
# on two processor cores. The levels are ours: the last map at three strides.
_base_ = ['./retinanet_rest_lite_shapes.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.GPViT',
        arch=dict(
            embed_dims=96,
            num_convs=1,
            depth=6,
            num_heads=4,
            group_blocks=(1, 4),
            num_groups=(16, 8),
            group_heads=4,
            image_size=128,
        ),
        pyramid='simple',
        out_indices=(1, 2, 3),
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=[96, 96, 96]),
)
