# Mask R-CNN on MViTv2 in windows (arXiv 2112.01526): FPN on stages 1 to 4.
_base_ = ['./mask_rcnn_rest.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.MViTV2',
        arch='tiny',
        attention='hwin',
        out_norm='branch',
        # the paper's, here and for the other variants; detectron2 has 0.2 for tiny and small
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
