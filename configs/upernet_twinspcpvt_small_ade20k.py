# UPerNet, Twins-PCPVT-small, ADE20K 160k: 46.2 mIoU (authors' result, not measured here).
_base_ = [
    './_base_/models/upernet_rest.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/twins_ade20k_160k.py',
    './_base_/seg_runtime.py',
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrest.TwinsPCPVT',
        arch='small',
        init_cfg=dict(type='Pretrained', checkpoint='mmrest://twinspcpvt_small'),
        # as the authors' segmentation code, which tests images of any size
        sizes='floor',
        drop_path_rate=0.2,
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
# four images on each of 8 GPUs, where the larger ones have two
train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(base_batch_size=32)
