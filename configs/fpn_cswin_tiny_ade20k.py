# Semantic FPN, CSWin-tiny, ADE20K 80k: 48.2 mIoU (authors' result, not measured here).
_base_ = [
    './_base_/models/fpn.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/sem_fpn_80k.py',
    './_base_/seg_runtime.py',
]
# To start from the authors' ImageNet weights:
#   --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=FILE
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.CSWin',
        arch='tiny',
        out_norm='branch',
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
