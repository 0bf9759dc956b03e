# Mask R-CNN on GPViT with a ViT-Adapter (arXiv 2212.06795): FPN on its four levels, four
# convolutions in the box head, synchronised BatchNorms.
_base_ = ['./mask_rcnn_rest.py']
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    # as the authors
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(
        _delete_=True,
        type='mmrest.GPViTAdapter',
        arch='l1',
        norm_cfg=norm_cfg,
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[216, 216, 216, 216], norm_cfg=norm_cfg),
    roi_head=dict(bbox_head=dict(type='Shared4Conv1FCBBoxHead', norm_cfg=norm_cfg)),
)
