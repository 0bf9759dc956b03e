"""``make accept``: every family learns some of the built-in shapes from random weights.

What it has learned is then tested at other resolutions.

The other tests compare numbers; these are the whole: a recipe, its data, a head, an optimizer and
an evaluation, of a small architecture of each family.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner

from mmrest.backbones import BACKBONES
from mmrest.commands import move_data_root
from mmrest.commands.image_size import find_resize
from mmrest.config_nodes import iterate_dicts, task_model
from mmrest.datasets import write_shapes
from mmrest.multires.sweep import Resolution, measure_at
from tests.shipped import sample_few, shipped

pytestmark = pytest.mark.accept

SCALES = (0.67, 1, 1.5)  # of the images of a test

STAGES = dict(embed_dims=(32, 64, 128, 256), depths=(1, 2, 2, 2), num_heads=(1, 2, 4, 8))
WIDENING = dict(STAGES, mlp_ratios=(4, 4, 4, 4))
GROUPS = dict(embed_dims=96, num_convs=1, depth=6, num_heads=4, group_blocks=(1, 4))
GROUPS.update(num_groups=(16, 8), group_heads=4, image_size=128)
REDUCING = dict(WIDENING, sr_ratios=(8, 4, 2, 1))
BACKBONE_OPTIONS: dict[str, dict[str, Any]] = {
    'ResT': dict(arch=REDUCING),
    'ResTV2': dict(arch=REDUCING),
    'ResFormer': dict(arch=dict(embed_dims=96, depth=6, num_heads=4, mlp_ratio=4)),
    'MViTV2': dict(arch=dict(STAGES, window_sizes=(16, 8, 4, 2), image_size=64), attention='hwin'),
    'PVT': dict(arch=dict(WIDENING, image_size=128)),
    'PVTV2': dict(arch=WIDENING),
    'TwinsPCPVT': dict(arch=WIDENING),
    'TwinsSVT': dict(arch=WIDENING),
    'P2T': dict(arch=WIDENING),
    'CSWin': dict(arch=dict(WIDENING, num_heads=(2, 2, 4, 8))),
    'Swin': dict(arch=WIDENING),
    'GPViT': dict(arch=GROUPS, pyramid='simple'),
    'GPViTAdapter': dict(arch=GROUPS),
}


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        config: Of the repository, whose backbone is replaced.
        levels: Of the backbone.
        metric: That must reach ``bound``.
        iterations: Of the training.
    """

    config: str
    levels: tuple[int, ...]
    metric: str
    bound: float
    iterations: int = 150


TASKS = {
    'detector': Task('retinanet_rest_lite_shapes', (1, 2, 3), 'coco/bbox_mAP_50', 0.3),
    'instance segmentor': Task(
        'mask_rcnn_rest_lite_shapes', (0, 1, 2, 3), 'coco/segm_mAP_50', 0.3, 250
    ),
    'segmentor': Task('upernet_rest_lite_shapes', (0, 1, 2, 3), 'mIoU', 30.0, 500),
}


def test_every_family_has_an_architecture() -> None:
    assert BACKBONE_OPTIONS.keys() == BACKBONES.keys()


@pytest.fixture(scope='session')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp('data') / 'shapes', num_train=24, num_val=1)


def config_of(task: Task, family: str, shapes: Path, work_dir: Path) -> Config:
    """The repository's config with another backbone and a short schedule."""
    cfg = shipped(task.config)
    move_data_root(cfg, str(shapes))
    model = task_model(cfg)
    assert family in BACKBONE_OPTIONS, f'enter an architecture of {family} in {__file__}'
    backbone = dict(type=f'mmrest.{family}', **BACKBONE_OPTIONS[family])
    backbone.update(out_indices=task.levels, drop_path_rate=0.0)
    model.pop('backbone')
    model.backbone = backbone
    channels = MODELS.build(backbone).out_channels
    if 'neck' in model:
        model.neck.in_channels = list(channels)
    else:
        model.decode_head.in_channels = list(channels)
        model.auxiliary_head.in_channels = channels[model.auxiliary_head.in_index]
    sample_few(model, boxes=64, proposals=100)
    evaluate_on_training_images(cfg)
    cfg.work_dir = str(work_dir)
    cfg.train_cfg = dict(
        type='IterBasedTrainLoop', max_iters=task.iterations, val_interval=task.iterations
    )
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=task.iterations),
    ]
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=-1, save_last=False)
    cfg.default_hooks.logger.interval = 20
    cfg.log_level = 'WARNING'
    return cfg


def evaluate_on_training_images(cfg: Config) -> None:
    """What is learned of a few images is seen after two minutes, what generalises after an hour."""
    trained = cfg.train_dataloader.dataset
    for split in ('val', 'test'):
        for key in ('ann_file', 'data_prefix'):
            if key in trained:
                cfg[f'{split}_dataloader'].dataset[key] = trained[key]
        for metric in iterate_dicts(cfg[f'{split}_evaluator']):
            if 'ann_file' in metric:
                metric['ann_file'] = metric['ann_file'].replace('val2017', 'train2017')


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('family', BACKBONES)
def test_it_learns(
    family: str,
    task: str,
    shapes: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    cfg = config_of(TASKS[task], family, shapes, tmp_path)
    runner = Runner.from_cfg(copy.deepcopy(cfg))
    runner.train()
    history = runner.message_hub.log_scalars
    losses = history['train/loss'].data[0]
    metric = history[f'val/{TASKS[task].metric}'].current()
    record_property('metric', f'{metric:.3f}')  # for docs/scripts/write_reliability.py
    assert metric >= TASKS[task].bound
    assert losses[-20:].mean() < 0.7 * losses[:20].mean()
    runner.save_checkpoint(str(tmp_path), 'learned.pth')
    cfg.load_from = str(tmp_path / 'learned.pth')
    for scale, value in sweep(cfg, TASKS[task].metric).items():
        record_property(f'metric at {scale}', f'{value:.3f}')
        # what is learned is no matter of one image size
        assert value >= metric / 10 if scale != 1 else value == pytest.approx(metric, abs=1e-3)


def sweep(cfg: Config, metric: str) -> dict[float, float]:
    """Scale of the images -> metric, of a config's ``load_from``."""
    short = min(find_resize(cfg).scale)
    return {
        scale: measure_at(cfg, Resolution(round(scale * short))).metrics[metric] for scale in SCALES
    }
