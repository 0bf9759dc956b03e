"""Every config builds, and takes a training and a prediction step at a tiny size."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from torch import nn

from mmrest.backbones import BACKBONES
from mmrest.commands import load_config, move_data_root
from mmrest.commands.pretraining import train_from_scratch
from mmrest.config_nodes import task_model
from mmrest.datasets import CLASSES
from mmrest.engine.anchor_strides import find_misplaced_anchors
from mmrest.engine.map_channels import find_difference
from tests.conftest import ROOT
from tests.published_results import PAPER
from tests.shipped import PATHS, on_meta, sample_few, shipped

CONFIGS = PATHS


def shrink(pipeline: list[dict]) -> None:
    """Resize and crop to a tiny size instead of the config's."""
    for step in pipeline:
        for branch in step.get('transforms', ()) if step['type'] == 'RandomChoice' else ():
            shrink(branch)
        if 'scales' in step:
            step['scales'] = [(96, 64)]
        elif 'scale' in step:
            step['scale'] = (96, 64)
        elif step['type'] == 'RandomCrop' and step.get('crop_type') != 'relative':
            step['crop_size'] = (64, 64)


def build(cfg: Config) -> nn.Module:
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.manual_seed(0)
        if cfg.default_scope == 'mmseg':
            task_model(cfg).data_preprocessor.size = (64, 64)
        # as the runner does outside of distributed training
        return revert_sync_batchnorm(MODELS.build(cfg.model))


def batches(cfg: Config, split: str) -> Any:
    loader = cfg[f'{split}_dataloader']
    # mmseg predicts images of different sizes one by one
    batch_size = 2 if split == 'train' else 1
    loader.update(batch_size=batch_size, num_workers=0, persistent_workers=False)
    shrink(loader.dataset.pipeline)
    if cfg.default_scope == 'mmdet':
        # the shapes have other classes than COCO, whose names would find no object in them
        loader.dataset.metainfo = dict(classes=CLASSES)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return Runner.build_dataloader(loader, seed=0)


def take_steps(cfg: Config) -> nn.Module:
    """A training step and a prediction; the model afterwards."""
    sample_few(cfg.model, boxes=16, proposals=32)
    model = build(cfg)
    # some parameters of Deformable DETR hold whatever the memory held until this is called
    model.init_weights()
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        cfg.optim_wrapper.type = 'OptimWrapper'  # mixed precision needs a GPU
        optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    model.train()
    before = [p.detach().sum() for p in model.parameters()]  # a copy of the largest is 3 GB
    losses = model.train_step(next(iter(batches(cfg, 'train'))), optim_wrapper)
    assert losses['loss'].isfinite()
    assert any(
        old != new.detach().sum() for old, new in zip(before, model.parameters(), strict=True)
    )
    model.eval()
    with torch.no_grad():
        samples = model.test_step(next(iter(batches(cfg, 'test'))))
    assert samples
    assert all('pred_instances' in s or 'pred_sem_seg' in s for s in samples)
    return model


def names(path: Path) -> tuple[str, str, str]:
    """Head, family and variant of a config's name: (mask_rcnn, rest, small_mr), for example."""
    families = '|'.join(family.lower() for family in BACKBONES)
    match = re.fullmatch(rf'(.+)_({families})_(.+)_(coco|ade20k|shapes)', path.stem)
    # those on shapes need not name the variant
    return match.groups()[:3] if match else (*path.stem.rsplit('_', 2)[:2], 'lite')


def smallest(paths: list[Path]) -> Path:
    """The one with the smallest backbone; those for the built-in data set have smaller ones."""
    sizes = 'lite', 'tiny', 'small', 'base', 'large', 'huge'

    def key(path: Path) -> tuple[bool, int]:
        of_size = [*(size in names(path)[2] for size in sizes), True]
        return not path.stem.endswith('_shapes'), of_size.index(True)

    return min(paths, key=key)


def in_every_run() -> set[Path]:
    """Configs in which every family and every head is once, the smallest of each first."""
    chosen: set[Path] = set()
    for position in (1, 0):  # families, then heads that none of theirs has
        groups: dict[str, list[Path]] = {}
        for path in CONFIGS:
            groups.setdefault(names(path)[position], []).append(path)
        for paths in groups.values():
            if chosen.isdisjoint(paths):
                chosen.add(smallest(paths))
    return chosen


def in_tiers() -> list:
    """Every config; most are in ``make test-all`` alone."""
    first = in_every_run()

    def marks(path: Path) -> list[pytest.MarkDecorator]:
        if path in first:
            return []
        # 15 GB: weights, gradients and the optimizer's states
        return [pytest.mark.slow, *([pytest.mark.alone] if 'huge' in path.stem else [])]

    return [pytest.param(path, id=path.stem, marks=marks(path)) for path in CONFIGS]


def test_every_family_and_every_head_takes_a_step_in_every_run() -> None:
    stepped = {names(case.values[0])[:2] for case in in_tiers() if not case.marks}
    assert {head for head, _ in stepped} == {names(path)[0] for path in CONFIGS}
    assert {family for _, family in stepped} >= {family.lower() for family in BACKBONES}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_builds(path: Path) -> None:
    cfg = shipped(path.stem)
    with on_meta():
        model = build(cfg)
    reader = task_model(cfg).get('neck') or task_model(cfg).decode_head
    assert model.backbone.out_channels == tuple(reader.in_channels)
    assert find_difference(model) is None
    assert find_misplaced_anchors(model) is None


@pytest.mark.parametrize('path', in_tiers())
def test_config_trains_and_predicts(path: Path, shapes_root: Path) -> None:
    cfg = shipped(path.stem)
    move_data_root(cfg, str(shapes_root))
    train_from_scratch(cfg)
    if path.stem == 'cascade_mask_rcnn_mvitv2_large_coco':
        # else a step takes more than 20 GB
        task_model(cfg).backbone.with_cp = True
    take_steps(cfg)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_the_papers_figure_is_named_as_the_papers(path: Path) -> None:
    lines = path.read_text().split('\n_base_')[0].splitlines()
    comment = ' '.join(line.removeprefix('# ') for line in lines)
    if path.stem in PAPER:
        assert f": {PAPER[path.stem]} (authors' result, not measured here)." in comment
    else:
        assert not re.search(r'\d AP|mIoU', comment)


FASTER_RCNN = """
    {imports}
    default_scope = 'mmdet'
    model = dict(
        type='FasterRCNN',
        data_preprocessor=dict(type='DetDataPreprocessor', mean=[0.0], std=[255.0]),
        backbone=dict(type='{backbone}', arch='lite'),
        neck=dict(type='FPN', in_channels=[64, 128, 256, 512], out_channels=32, num_outs=5),
        rpn_head=dict(
            type='RPNHead', in_channels=32, feat_channels=32,
            anchor_generator=dict(
                type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0],
                strides=[4, 8, 16, 32, 64]),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True),
            loss_bbox=dict(type='L1Loss')),
        roi_head=dict(
            type='StandardRoIHead',
            bbox_roi_extractor=dict(
                type='SingleRoIExtractor', out_channels=32, featmap_strides=[4, 8, 16, 32],
                roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0)),
            bbox_head=dict(
                type='Shared2FCBBoxHead', in_channels=32, fc_out_channels=32, num_classes=5,
                bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
                loss_cls=dict(type='CrossEntropyLoss'),
                loss_bbox=dict(type='L1Loss'))),
        train_cfg=dict(
            rpn=dict(
                assigner=dict(
                    type='MaxIoUAssigner', pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3),
                sampler=dict(type='RandomSampler', num=32, pos_fraction=0.5),
                allowed_border=-1, pos_weight=-1),
            rpn_proposal=dict(nms_pre=50, max_per_img=50, nms=dict(type='nms', iou_threshold=0.7)),
            rcnn=dict(
                assigner=dict(
                    type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5),
                sampler=dict(
                    type='RandomSampler', num=32, pos_fraction=0.25, add_gt_as_proposals=True),
                pos_weight=-1)),
        test_cfg=dict(
            rpn=dict(nms_pre=50, max_per_img=50, nms=dict(type='nms', iou_threshold=0.7)),
            rcnn=dict(
                score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10)))
    optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-4))
"""


@pytest.mark.parametrize(
    ('imports', 'backbone'),
    [("custom_imports = dict(imports=['mmrest'])", 'ResT'), ('', 'mmrest.ResT')],
    ids=['custom_imports', 'dotted type'],
)
def test_a_config_of_somebody_else(
    imports: str, backbone: str, shapes_root: Path, tmp_path: Path
) -> None:
    file = tmp_path / 'theirs.py'
    file.write_text(textwrap.dedent(FASTER_RCNN).format(imports=imports, backbone=backbone))
    cfg = load_config(str(file))
    shapes = load_config(str(ROOT / 'configs/retinanet_rest_lite_shapes.py'))
    move_data_root(shapes, str(shapes_root))
    for split in ('train', 'test'):
        cfg[f'{split}_dataloader'] = shapes[f'{split}_dataloader']
    take_steps(cfg)
