# Mask R-CNN on ResFormer, the ViTDet way (arXiv 2212.00776, Section 4.3; arXiv 2203.16527): a
# simple feature pyramid with LayerNorm, window attention between four blocks of global attention.
# The window size and the global blocks are not published: those here are ViTDet's. The heads are
# ViTDet's too, and agree with the published number of parameters (docs/parameters.md).
_base_ = ['./mask_rcnn_rest.py']
norm_cfg = dict(type='mmrest.LayerNorm2d', eps=1e-6)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.ResFormer',
        arch='small',
        pyramid='simple',
        window_size=14,
        global_blocks=(2, 5, 8, 11),
        drop_path_rate=0.1,
    ),
    neck=dict(
        _delete_=True,
        type='mmrest.SimpleFPN',
        in_channels=[384, 384, 384, 384],
        out_channels=256,
        num_outs=5,
        norm_cfg=norm_cfg,
    ),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
