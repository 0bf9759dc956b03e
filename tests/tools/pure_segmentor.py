# A segmentor in mmengine's pure Python style: types are classes, and there is no scope.
from mmcv.transforms import LoadImageFromFile, RandomFlip, Resize, TestTimeAug
from mmengine.dataset import DefaultSampler
from mmengine.hooks import (
    CheckpointHook,
    DistSamplerSeedHook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
)
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, TestLoop, ValLoop
from mmengine.visualization import LocalVisBackend
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.evaluation import IoUMetric
from mmseg.models import CrossEntropyLoss, EncoderDecoder, FCNHead, SegDataPreProcessor, SegTTAModel
from mmseg.visualization import SegLocalVisualizer
from torch.optim import AdamW

from mmrest import ResFormer

root = 'data/shapes/'
classes = ('background', 'disc', 'ring', 'triangle', 'bar', 'star')
model = dict(
    type=EncoderDecoder,
    data_preprocessor=dict(
        type=SegDataPreProcessor,
        mean=[120.0] * 3,
        std=[60.0] * 3,
        size=(96, 128),
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type=ResFormer,
        arch=dict(embed_dims=16, depth=4, num_heads=2, mlp_ratio=1),
        pyramid='taps',
        out_indices=(3,),
    ),
    decode_head=dict(
        type=FCNHead,
        in_channels=16,
        in_index=0,
        channels=8,
        num_convs=1,
        num_classes=6,
        dropout_ratio=0.0,
        align_corners=False,
        loss_decode=dict(type=CrossEntropyLoss, use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
load, annotate = dict(type=LoadImageFromFile), dict(type=LoadAnnotations, reduce_zero_label=True)
resize, pack = dict(type=Resize, scale=(128, 96), keep_ratio=False), dict(type=PackSegInputs)
train_pipeline = [load, annotate, resize, pack]
test_pipeline = [load, resize, annotate, pack]
tta_pipeline = [
    load,
    dict(
        type=TestTimeAug,
        transforms=[
            [resize],
            [dict(type=RandomFlip, prob=0.0), dict(type=RandomFlip, prob=1.0)],
            [annotate],
            [pack],
        ],
    ),
]
tta_model = dict(type=SegTTAModel)
loader = dict(num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False))
data = dict(
    type=BaseSegDataset, data_root=root, metainfo=dict(classes=classes), reduce_zero_label=True
)
train_dataloader = dict(
    **loader,
    batch_size=2,
    dataset=dict(
        **data,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    **loader,
    batch_size=1,
    dataset=dict(
        **data,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type=IoUMetric, iou_metrics=['mIoU'])
test_evaluator = val_evaluator
train_cfg = dict(type=IterBasedTrainLoop, max_iters=2, val_interval=2)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-4))
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=1, log_metric_by_epoch=False),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=2),
    sampler_seed=dict(type=DistSamplerSeedHook),
    visualization=dict(type=SegVisualizationHook),
)
visualizer = dict(
    type=SegLocalVisualizer, vis_backends=[dict(type=LocalVisBackend)], name='visualizer'
)
log_processor = dict(by_epoch=False)
default_scope = None
