"""What a sweep prints and does around its measurements, which are made up here."""

from __future__ import annotations

import csv
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config

from mmrest.errors import InputError, Interrupted
from mmrest.multires import commands
from mmrest.multires.commands import sweep_resolutions
from mmrest.multires.sweep import OUT_OF_MEMORY, Measurement, Resolution

Answers = dict[str, float | str]


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    (tmp_path / 'model.pth').touch()
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(160, 96))]
    return Config(
        dict(
            model=dict(type='RetinaNet'),
            test_evaluator=dict(type='CocoMetric'),
            test_cfg=dict(type='TestLoop'),
            test_dataloader=dict(dataset=dict(type='Shapes', pipeline=pipeline)),
            work_dir=str(tmp_path / 'work'),
            load_from=str(tmp_path / 'model.pth'),
        )
    )


@pytest.fixture
def measured(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> Callable[[Answers], list[str]]:
    """Say what is measured, resolution -> metric or error; 0.5 otherwise. It lists what was."""

    def say(answers: Answers) -> list[str]:
        asked: list[str] = []

        def measure(given: Config, resolution: Resolution) -> Measurement:
            assert given is cfg
            asked.append(str(resolution))
            answer = answers.get(str(resolution), 0.5)
            if isinstance(answer, str):
                return Measurement(resolution, error=answer)
            return Measurement(resolution, {'mIoU': answer}, 2.0, 10**9)

        monkeypatch.setattr(commands, 'measure_in_process', measure)
        return asked

    return say


def test_training_comes_first_then_short_sides_then_aspect_ratios(
    cfg: Config, measured: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = measured({'48': 0.25})
    report = sweep_resolutions(cfg, [192, 48, 96, 192], [2.0, 0.5, 2.0])
    assert asked == ['96', '48', '192', '192x96', '96x192']
    assert report.training_resolution == 96
    assert str(report.folder) == cfg.work_dir
    first, header, *lines = capsys.readouterr().out.splitlines()
    assert first == f'testing {cfg.load_from} at 5 resolutions: 96, 48, 192, 192x96, 96x192'
    assert header.split() == ['resolution', 'mIoU', 'images/s', 'peak', 'MB', 'retention']
    rows = [line.split() for line in lines if line.split()[0] in asked]
    assert [row[:2] for row in rows] == [
        [name, '0.25' if name == '48' else '0.5'] for name in asked
    ]
    assert rows[1][-1] == '0.500'
    assert lines[-2:] == [
        report.summary(),
        f'written to {cfg.work_dir}/resolutions.csv, .json and .png',
    ]


def test_another_training_resolution_and_metric(cfg: Config, measured: Callable) -> None:
    assert measured({}) == []
    report = sweep_resolutions(cfg, [48], training_resolution=64, metric='mIoU')
    assert (report.training_resolution, report.wanted_metric) == (64, 'mIoU')
    assert list(report.values) == [64, 48]


def test_what_is_known_is_not_measured_again_and_what_failed_is(
    cfg: Config, measured: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    measured({'192': OUT_OF_MEMORY, '48': 'why'})
    with pytest.raises(InputError, match=r'^1 of 3 resolutions failed'):
        sweep_resolutions(cfg, [48, 192])
    written = Path(cfg.work_dir, 'resolutions.csv')
    with open(written) as file:
        assert [row['error'] for row in csv.DictReader(file)] == ['why', '', OUT_OF_MEMORY]
    out = capsys.readouterr().out
    assert f'192  {OUT_OF_MEMORY}' in out
    assert 'without 48, 192' in out
    asked = measured({'192': OUT_OF_MEMORY})  # memory's end is a result
    sweep_resolutions(cfg, [48, 192])
    assert asked == ['48', '192']


def test_the_columns_are_shown_when_they_are_known(
    cfg: Config, measured: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    measured({'96': OUT_OF_MEMORY})
    sweep_resolutions(cfg, [48, 64])
    lines = capsys.readouterr().out.splitlines()
    assert [i for i, line in enumerate(lines) if line.startswith('resolution')] == [2]


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(
    cfg: Config, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = signal.getsignal(number)

    def measure(cfg: Config, resolution: Resolution) -> Measurement:
        if resolution.short_side != 96:
            signal.raise_signal(number)
        return Measurement(resolution, {'mIoU': 0.5}, 2.0, 10**9)

    monkeypatch.setattr(commands, 'measure_in_process', measure)
    with pytest.raises(Interrupted, match=r'^interrupted; the same') as caught:
        sweep_resolutions(cfg, [48])
    assert caught.value.signal == number
    assert signal.getsignal(number) is before
    assert Path(cfg.work_dir, 'resolutions.json').exists()  # with what was measured
