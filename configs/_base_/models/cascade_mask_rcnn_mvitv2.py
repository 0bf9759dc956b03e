# Cascade Mask R-CNN on MViTv2, with the heads of detectron2's project: two convolutions in the RPN,
# four and a linear layer in each box head, SyncBN in all heads, boxes for all classes together.
_base_ = ['./mask_rcnn_mvitv2.py']
norm_cfg = dict(type='SyncBN', requires_grad=True)
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
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        # one mask head, not one for each stage
        type='mmrest.engine.one_mask_head.OneMaskCascadeRoIHead',
        num_stages=3,
        stage_loss_weights=[1, 1, 1],
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
                norm_cfg=norm_cfg,
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder',
                    target_means=[0.0, 0.0, 0.0, 0.0],
                    target_stds=deviations,
                ),
                reg_class_agnostic=True,
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='L1Loss', loss_weight=1.0),
            )
            for deviations in box_deviations
        ],
        mask_head=dict(norm_cfg=norm_cfg),
    ),
    train_cfg=dict(
        rcnn=[
            {
                **rcnn,
                'assigner': dict(
                    pos_iou_thr=iou, neg_iou_thr=iou, min_pos_iou=iou, **rcnn['assigner']
                ),
                'sampler': sampler,
            }
            # the later stages learn from all boxes of the stage before
            for iou, sampler in (
                (0.5, rcnn['sampler']),
                (0.6, dict(type='PseudoSampler')),
                (0.7, dict(type='PseudoSampler')),
            )
        ]
    ),
)
