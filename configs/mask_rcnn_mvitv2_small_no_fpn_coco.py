# No FPN, MViTv2-small, COCO 3x: 47.0 box AP, 41.4 mask AP (authors' result, not measured here).
# The paper's ablation does not say which map the heads read; that it is the last, by a 1x1
# convolution to the 256 channels of the FPN, is ours.
_base_ = ['./mask_rcnn_mvitv2_small_coco.py']
model = dict(
    backbone=dict(out_indices=(3,)),
    neck=dict(
        _delete_=True,
        type='ChannelMapper',
        in_channels=[768],
        out_channels=256,
        kernel_size=1,
        act_cfg=None,
    ),
    rpn_head=dict(anchor_generator=dict(scales=[1, 2, 4, 8, 16], strides=[32])),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[32]),
        mask_roi_extractor=dict(featmap_strides=[32]),
    ),
)
