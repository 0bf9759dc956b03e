from __future__ import annotations

import copy
import json
import os
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmrest.commands import load_config, move_data_root
from mmrest.commands.image_size import find_resize
from mmrest.errors import InputError, Interrupted
from mmrest.multires import sweep
from mmrest.multires.commands import sweep_resolutions
from mmrest.multires.sweep import (
    OUT_OF_MEMORY,
    Resolution,
    main_metric,
    measure_at,
    measure_in_process,
    parse_aspect_ratio,
    relative_area,
)
from tests import forked
from tests.conftest import ROOT
from tests.multires import watching  # noqa: F401  (registers)


def config(shapes_root: Path, folder: Path, name: str = 'retinanet_rest_lite_shapes') -> Config:
    cfg = load_config(str(ROOT / f'configs/{name}.py'), work_dir=str(folder / 'work'))
    move_data_root(cfg, str(shapes_root))
    return cfg


@pytest.fixture
def _loaded_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep loads the libraries anew for each resolution; others of the tests have it do so."""
    monkeypatch.setattr('mmrest.multires.sweep.get_context', lambda _: forked.CONTEXT)


@pytest.fixture
def cfg(shapes_root: Path, tmp_path: Path) -> Config:
    """A config with a checkpoint."""
    cfg = config(shapes_root, tmp_path)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'model.pth')
    cfg.load_from, cfg.resume = str(tmp_path / 'model.pth'), False
    return cfg


@pytest.mark.parametrize(
    ('resolution', 'scale', 'keeps'),
    [
        (Resolution(400), (666, 400), True),
        (Resolution(641), (1068, 641), True),
        (Resolution(511, 1.5), (766, 511), False),
        (Resolution(333), (555, 333), True),
        (Resolution(500, 0.5), (500, 1000), False),
        (Resolution(500, 1.0), (500, 500), False),
    ],
)
def test_the_long_side_follows(resolution: Resolution, scale: tuple, keeps: bool) -> None:
    resize = ConfigDict(type='Resize', scale=(1333, 800), keep_ratio=True)
    resolution.apply_to(resize)
    assert tuple(resize.scale) == scale
    assert resize.keep_ratio == keeps
    assert str(resolution) == (str(resolution.short_side) if keeps else '{}x{}'.format(*scale))


def test_area_is_the_mean_retention_over_log_resolution() -> None:
    assert relative_area({100: 0.4, 200: 0.4, 777: 0.4}, 200) == pytest.approx(1)
    # falls by a half over the upper half of the range of logarithms
    assert relative_area({100: 1.0, 200: 1.0, 400: 0.0}, 200) == pytest.approx(0.75)
    assert relative_area({100: 0.2, 400: 0.4}, 400) == pytest.approx(0.75)
    assert relative_area({100: 1.0}, 100) is None
    assert relative_area({100: 1.0, 200: 0.0}, 200) is None


def test_the_metric_is_the_usual_one_or_the_wanted() -> None:
    metrics = {'coco/bbox_mAP': 0.1, 'coco/segm_mAP': 0.2}
    assert main_metric(metrics) == 'coco/bbox_mAP'
    assert main_metric(metrics, 'coco/segm_mAP') == 'coco/segm_mAP'
    assert main_metric({'own': 1.0}) == 'own'
    assert main_metric({}) is None
    with pytest.raises(ValueError, match='--metric mIoU is none of the metrics: coco/bbox_mAP'):
        main_metric(metrics, 'mIoU')


@pytest.mark.parametrize(('text', 'ratio'), [('4:3', 4 / 3), ('1:2', 0.5), ('1.5', 1.5)])
def test_aspect_ratios(text: str, ratio: float) -> None:
    assert parse_aspect_ratio(text) == pytest.approx(ratio)


@pytest.mark.parametrize('text', ['4:0', '-1:2', 'wide', 'nan', '4x3'])
def test_what_is_no_aspect_ratio_is_named(text: str) -> None:
    with pytest.raises(ValueError, match='is no aspect ratio'):
        parse_aspect_ratio(text)


@pytest.mark.parametrize('name', ['retinanet_rest_lite_shapes', 'upernet_rest_lite_shapes'])
def test_images_have_the_resolution(name: str, shapes_root: Path, tmp_path: Path) -> None:
    cfg = config(shapes_root, tmp_path, name)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'model.pth')
    cfg.load_from, cfg.resume = str(tmp_path / 'model.pth'), False
    cfg.custom_imports = dict(imports=['mmrest', 'tests.multires.watching'])
    cfg.custom_hooks = [dict(type='WriteSizes', file=str(tmp_path / 'sizes'))]
    before = cfg.to_dict()
    result = measure_at(cfg, Resolution(61))
    assert cfg.to_dict() == before
    lines = (tmp_path / 'sizes').read_text().splitlines()
    sizes = {tuple(map(int, line.split())) for line in lines}
    assert {min(size) for size in sizes} == {61}
    assert result.error is None
    assert result.images_per_second > 0
    assert result.peak_bytes > 1e8
    assert any(name.endswith('mAP') or name == 'mIoU' for name in result.metrics)


@pytest.mark.usefixtures('_loaded_processes')
def test_a_sweep_goes_past_what_fails_and_resumes(
    cfg: Config, capfd: pytest.CaptureFixture, tmp_path: Path
) -> None:
    cfg.custom_imports = dict(imports=['mmrest', 'tests.multires.watching'])
    cfg.custom_hooks = [dict(type='DieAt', short_side=150)]
    report = sweep_resolutions(cfg, [96, 150], [1.0])
    first = capfd.readouterr().out
    # what the libraries say when they are loaded may come in between
    title, header = [x for x in first.splitlines() if not x.startswith('Could not import')][:2]
    assert 'at 3 resolutions: 96, 150, 96x96' in title
    assert 'coco/bbox_mAP' in header
    assert '150  out of memory' in first
    assert '96x96' in first
    assert 'without 150' in first
    rows = json.loads((tmp_path / 'work/resolutions.json').read_text())['measurements']
    assert [row['error'] for row in rows] == [None, OUT_OF_MEMORY, None]
    # what was measured is not measured again, what failed is
    for m in report.measurements:
        m.images_per_second = 1234.0
    report.save()
    cfg.custom_hooks = []
    sweep_resolutions(cfg, [96])
    assert '1.23e+03' in capfd.readouterr().out
    with pytest.raises(ValueError, match='--metric mAP is none of the metrics: coco/bbox_mAP'):
        sweep_resolutions(cfg, [96], metric='mAP')
    cfg.model.test_cfg.score_thr = 0.1
    with pytest.raises(ValueError, match='sweep of another config'):
        sweep_resolutions(cfg, [96])


def test_an_interruption_ends_the_process_that_measures(cfg: Config, tmp_path: Path) -> None:
    cfg.custom_imports = dict(imports=['mmrest', 'tests.multires.watching'])
    cfg.custom_hooks = [dict(type='InterruptParent', file=str(tmp_path / 'child'))]
    with pytest.raises(Interrupted, match='the same command goes on'):
        sweep_resolutions(cfg, [96])
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / 'child').read_text()), 0)


@pytest.mark.usefixtures('_loaded_processes')
def test_out_of_memory_within_python_is_a_result(cfg: Config) -> None:
    cfg.custom_imports = dict(imports=['mmrest', 'tests.multires.watching'])
    cfg.custom_hooks = [dict(type='RaiseAt', short_side=60, message='CUDA out of memory.')]
    assert measure_at(cfg, Resolution(60)).error == OUT_OF_MEMORY
    cfg.custom_hooks = [dict(type='RaiseAt', short_side=60, message='size mismatch')]
    assert measure_in_process(cfg, Resolution(60)).error == 'RuntimeError: size mismatch'


@pytest.mark.usefixtures('_loaded_processes')
def test_a_checkpoint_of_another_model_ends_the_sweep(cfg: Config, tmp_path: Path) -> None:
    torch.save(dict(state_dict={'backbone.weight': torch.zeros(1)}), tmp_path / 'model.pth')
    with pytest.raises(ValueError, match=r'model\.pth'):
        measure_in_process(cfg, Resolution(60))


class SteppedTest:
    """A runner whose test takes so many seconds for so many images, a pair each step."""

    def __init__(self, *steps: tuple[float, int]) -> None:
        self.steps, self.seconds = steps, 0.0
        self.model = nn.Linear(1, 1)
        self.model.test_step = self.step

    def step(self, data: tuple[float, int]) -> list[int]:
        self.seconds += data[0]
        return [0] * data[1]

    def test(self) -> dict[str, Any]:
        print('a line that is not the table')
        for step in self.steps:
            self.model.test_step(step)
        return {'mAP': np.float64(0.5), 'classes': ['a', 'b']}


@pytest.mark.parametrize(
    ('steps', 'rate'),
    [(((100.0, 4), (1.0, 4), (2.0, 2)), 6 / 3), (((2.0, 4),), 4 / 2)],
    ids=['the first warms up', 'the only one counts'],
)
def test_what_is_measured_of_a_test(
    steps: tuple[tuple[float, int], ...],
    rate: float,
    cfg: Config,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    runner, built = SteppedTest(*steps), []
    monkeypatch.setattr(sweep, 'build_runner', lambda cfg: built.append(cfg) or runner)
    monkeypatch.setattr(sweep, 'time', SimpleNamespace(perf_counter=lambda: runner.seconds))
    before = copy.deepcopy(cfg.to_dict())
    found = measure_at(cfg, Resolution(60))
    assert found.resolution == Resolution(60)
    assert found.metrics == {'mAP': 0.5}
    assert type(found.metrics['mAP']) is float
    assert found.images_per_second == rate
    assert 50e6 < found.peak_bytes < 1e12
    assert found.error is None
    assert set(found.environment) == {'device', 'threads', 'torch', 'date'}
    assert found.environment['torch'] == torch.__version__
    assert built[0].log_level == 'ERROR'
    assert min(find_resize(built[0]).scale) == 60
    assert cfg.to_dict() == before
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize(
    ('error', 'said'),
    [
        (RuntimeError('CUDA out of memory. Tried to allocate'), OUT_OF_MEMORY),
        (MemoryError(), OUT_OF_MEMORY),
        (
            ValueError('first\nsizes of tensors must match'),
            'ValueError: sizes of tensors must match',
        ),
        (AssertionError(), 'AssertionError: '),
    ],
)
def test_what_a_model_says_of_a_size_is_a_result(
    error: Exception, said: str, cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders, sent = [], []

    def fail(cfg: Config) -> None:
        folders.append(Path(cfg.work_dir))
        assert folders[0].is_dir()
        raise error

    monkeypatch.setattr(sweep, 'build_runner', fail)
    cfg.custom_imports = dict(imports=['colorsys'])
    sys.modules.pop('colorsys', None)
    with warnings.catch_warnings():
        sweep._serve(cfg, Resolution(60), SimpleNamespace(send=sent.append))
        warnings.warn('between the lines of the table', stacklevel=1)  # would be an error here
    assert [(m.resolution, m.error) for m in sent] == [(Resolution(60), said)]
    assert not folders[0].exists()
    assert 'colorsys' in sys.modules


def test_what_is_wrong_at_every_size_is_handed_over(
    cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, sent = InputError('the checkpoint is of another model'), []

    def fail(cfg: Config) -> None:
        raise error

    monkeypatch.setattr(sweep, 'build_runner', fail)
    sweep._serve(cfg, Resolution(60), SimpleNamespace(send=sent.append))
    assert sent == [error]
