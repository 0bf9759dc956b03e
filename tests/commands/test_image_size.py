"""The size of a config's images."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmrest.commands import load_config
from mmrest.commands.image_size import find_resize, usual_shape
from tests.conftest import ROOT


@pytest.mark.parametrize('name', ['retinanet_rest_small_coco', 'upernet_rest_small_ade20k'])
def test_the_resize_of_any_config_is_found(name: str) -> None:
    cfg = load_config(str(ROOT / f'configs/{name}.py'))
    assert find_resize(cfg) is cfg.test_dataloader.dataset.pipeline[1]
    resize = cfg.test_dataloader.dataset.pipeline[1]
    cfg.test_dataloader.dataset = dict(type='RepeatDataset', dataset=cfg.test_dataloader.dataset)
    cfg.test_dataloader.dataset.dataset.pipeline += [
        dict(type='Resize', scale_factor=1.0),
        dict(type='Pad', size_divisor=32),
        dict(type='Normalize', scale=1.0),
    ]
    assert find_resize(cfg) == resize
    del cfg.test_dataloader.dataset.dataset.pipeline[1]
    with pytest.raises(ValueError, match='exactly one Resize'):
        find_resize(cfg)


def test_a_pipeline_that_fixes_the_size_is_named() -> None:
    cfg = load_config('retinanet_rest_lite_shapes')
    pipeline = cfg.test_dataloader.dataset.pipeline
    pipeline.insert(2, dict(type='Pad', size=(640, 640)))
    with pytest.raises(ValueError, match='no Pad to a fixed size'):
        find_resize(cfg)
    cfg.pop('test_dataloader')
    with pytest.raises(ValueError, match='needs a test_dataloader'):
        find_resize(cfg)


@pytest.mark.parametrize(
    ('name', 'shape'),
    [
        ('retinanet_rest_small_coco', (800, 1333)),
        ('upernet_rest_small_ade20k', (512, 512)),
        ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', (800, 1344)),  # a multiple of 32
    ],
)
def test_the_usual_shape_is_the_pipelines(
    name: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    file = tmp_path / 'config.py'
    file.write_text(f'_base_ = {name!r}' if '::' in name else f"_base_ = 'mmrest::{name}.py'")
    assert usual_shape(load_config(str(file))) == shape


def test_without_a_size_of_its_own_it_is_cocos() -> None:
    cfg = load_config('retinanet_rest_lite_shapes')
    cfg.pop('test_dataloader')
    assert usual_shape(cfg) == (800, 1344)
