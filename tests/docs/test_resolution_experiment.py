"""The experiment over resolutions: every run can be built, and one goes all the way."""

from __future__ import annotations

import csv
import itertools
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmrest.commands import load_config, move_data_root
from tests.conftest import ROOT


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch, shapes_root: Path) -> tuple[ModuleType, ModuleType]:
    """The two scripts, on little data and for few iterations."""
    monkeypatch.syspath_prepend(str(ROOT / 'docs/scripts'))
    for name in ('resolution_experiment', 'write_resolution'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import resolution_experiment
    import write_resolution

    def on_little_data(path: str, **options: Any) -> Config:
        cfg = load_config(path, **options)
        cfg.built_in_data.update(num_train=12, num_val=4)
        move_data_root(cfg, str(shapes_root))
        return cfg

    monkeypatch.setattr(resolution_experiment, 'load_config', on_little_data)
    for module in (resolution_experiment, write_resolution):
        monkeypatch.setattr(module, 'ITERATIONS', 2)
        monkeypatch.setattr(module, 'TEST_RESOLUTIONS', (68, 96))
    return resolution_experiment, write_resolution


def test_every_run_can_be_built(scripts: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    experiment, _ = scripts
    for task, backbone, training in itertools.product(
        experiment.BASES, experiment.BACKBONES, experiment.TRAININGS
    ):
        cfg = experiment.make_config(task, backbone, training, 0, tmp_path)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = MODELS.build(cfg.model)
        assert hasattr(model, 'scales') == (training != 'single')
        consistent = training == 'multi + consistency'
        target = 'cls' if backbone == 'ResFormer' else 'gap'
        assert (model.consistency.target if consistent else None) == (
            target if consistent else None
        )


def test_a_run_is_written_into_tables_and_a_picture(
    scripts: tuple[ModuleType, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, write = scripts
    which = 'segmentation', 'ResFormer', 'multi + consistency'
    for seed in range(2):
        folder = experiment.folder_of(tmp_path, *which, seed)
        folder.mkdir()
        experiment.run(*which, seed, folder)
        (folder / 'done').touch()
    runs = write.read(tmp_path)
    first, second = runs[which].values()
    assert sorted(first.values) == [68, 96]
    monkeypatch.setattr(write, 'FOLDER', tmp_path)
    write.write_csv(runs)
    write.draw(runs)
    (row,) = (
        line for line in write.describe(runs).splitlines() if line.startswith('| ResFormer |')
    )
    assert f'| {(first.values[96] + second.values[96]) / 2:.1f} ± ' in row
    with open(tmp_path / 'results.csv', newline='') as file:
        assert len(list(csv.DictReader(file))) == 4
    assert (tmp_path / 'results.png').stat().st_size > 1000
