# Cascade Mask R-CNN with the heads of Swin's authors: four convolutions and a linear layer with
# SyncBN in each box head, boxes learned by their overlap.
_base_ = ['./mask_rcnn_rest.py']
box_deviations = [
    [0.1, 0.1, 0.2, 0.2],
    [0.05, 0.05, 0.1, 0.1],
    [0.033, 0.033, 0.067, 0.067],
]
rcnn = dict(
    assigner=dict(type='MaxIoUAssigner', match_low_quality=False, ignore_iof_thr=-1),
    sampler=dict(
        type='RandomSampler', num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True
    ),
    mask_size=28,
    pos_weight=-1,
    debug=False,
)
model = dict(
    type='CascadeRCNN',
    # as in mmdet's cascades
    rpn_head=dict(loss_bbox=dict(_delete_=True, type='SmoothL1Loss', beta=1 / 9, loss_weight=1.0)),
    roi_head=dict(
        type='CascadeRoIHead',
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=[
            dict(
                type='ConvFCBBoxHead',
                num_shared_convs=4,
                num_shared_fcs=1,
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                norm_cfg=dict(type='SyncBN', requires_grad=True),
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder',
                    target_means=[0.0, 0.0, 0.0, 0.0],
                    target_stds=deviations,
                ),
                reg_class_agnostic=False,
                reg_decoded_bbox=True,
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='GIoULoss', loss_weight=10.0),
            )
            for deviations in box_deviations
        ],
    ),
    train_cfg=dict(
        rpn=dict(allowed_border=0),
        rpn_proposal=dict(max_per_img=2000),
        rcnn=[
            {
                **rcnn,
                'assigner': dict(
                    pos_iou_thr=iou, neg_iou_thr=iou, min_pos_iou=iou, **rcnn['assigner']
                ),
            }
            for iou in (0.5, 0.6, 0.7)
        ],
    ),
)
