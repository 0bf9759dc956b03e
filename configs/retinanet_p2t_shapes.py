# RetinaNet, a small P2T, the built-in shapes: a training from random weights
# on two processor cores.
_base_ = ['./retinanet_rest_lite_shapes.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.P2T',
        arch=dict(
            embed_dims=(32, 64, 128, 256),
            depths=(1, 2, 2, 2),
            num_heads=(1, 2, 4, 8),
            mlp_ratios=(4, 4, 4, 4),
        ),
        out_indices=(1, 2, 3),
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=[64, 128, 256]),
)
