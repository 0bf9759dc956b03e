# RetinaNet, a small MViTv2, the built-in shapes: from random weights to useful predictions in
# minutes on two processor cores. Windows of 16 tokens and less, with every kind of block.
_base_ = ['./retinanet_rest_lite_shapes.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.MViTV2',
        arch=dict(
            embed_dims=(32, 64, 128, 256),
            depths=(1, 2, 2, 2),
            num_heads=(1, 2, 4, 8),
            window_sizes=(16, 8, 4, 2),
            image_size=64,
        ),
        attention='hwin',
        out_indices=(1, 2, 3),
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=[64, 128, 256]),
)
