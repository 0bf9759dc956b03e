"""tools/benchmark.py, at sizes too small to be worth measuring."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess]


def test_writes_a_table(run_tool: Run, tmp_path: Path) -> None:
    file = tmp_path / 'table.csv'
    result = run_tool(
        'benchmark.py', 'ResT:arch=lite', '--shapes', '32x40', '64x64', '--mode', 'infer',
        '--steps', 2, '--threads', 1, '--csv', file, '--plot', tmp_path / 'plot.png',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'plot.png').stat().st_size > 1000
    with open(file, newline='') as table:
        rows = list(csv.DictReader(table))
    assert [row['shape'] for row in rows] == ['32x40', '64x64']
    for row in rows:
        assert float(row['ms']) > 0
        assert float(row['peak MB']) > float(row['work MB']) >= 0
        assert row['torch']
        assert row['threads'] == '1'
        assert row['time / first'] == '1.00'
        assert float(row['% of peak']) >= 0
        assert float(row['peak GFLOP/s']) > 1
        assert row['parameters (M)'] == '10.00'
    again = run_tool('benchmark.py', 'ResT', '--csv', file)
    assert again.returncode != 0
    assert '--force replaces it' in again.stderr


def test_compares_ways_and_peers(run_tool: Run, tmp_path: Path) -> None:
    file = tmp_path / 'table.csv'
    result = run_tool(
        'benchmark.py', 'ResT:arch=lite', '--impl', 'auto', 'reference', '--against',
        'mmdet.models.backbones.swin.SwinTransformer:depths=(1,1,1,1)',
        '--shapes', '64x64', '--steps', 1, '--csv', file,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    with open(file, newline='') as table:
        rows = list(csv.DictReader(table))
    assert [row['impl'] for row in rows] == ['auto', 'reference', '']
    assert rows[0]['time / first'] == '1.00'
    assert all(float(row['time / first']) > 0 for row in rows)
    assert rows[0]['GMACs'] == rows[1]['GMACs']


@pytest.mark.slow
def test_measures_whole_models(run_tool: Run) -> None:
    configs = ['configs/mask_rcnn_rest_lite_shapes.py', 'configs/upernet_rest_lite_shapes.py']
    result = run_tool(
        'benchmark.py', *configs, '--shapes', '96x128', '--mode', 'infer', 'train', '--steps', 1,
        '--batch-size', 2,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr + result.stdout
    assert result.stdout.count('.py | auto | 96x128 | ') == 4


def test_cfg_options_change_configs(run_tool: Run) -> None:
    result = run_tool(
        'benchmark.py', 'retinanet_rest_lite_shapes', 'ResT:arch=lite', '--shapes', '32x32',
        '--steps', 1, '--cfg-options', 'model.backbone.arch=small',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr + result.stdout
    whole, backbone = (line.split(' | ') for line in result.stdout.splitlines()[-2:])
    assert whole[0] == '| retinanet_rest_lite_shapes'
    # ResT-lite's and -small's backbones
    assert float(backbone[6]) == 10.0
    assert float(whole[6]) > 13


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['NoSuchNet'], 'no backbone NoSuchNet is registered'),
        (['no_such.Net'], "no backbone no_such.Net is registered (No module named 'no_such')"),
        (['mmrest.backbones.Net'], "has no attribute 'Net'"),
        (['ResT:arch'], 'write TYPE:key=value'),
        (['ResT:arch=huge'], "unknown arch 'huge'"),
        (['ResT', '--shapes', '32'], '32 is no image size'),
        (['ResT', '--steps', '0'], 'must be at least 1'),
        (['ResT', '--threads', '-1'], 'at least 0'),
        (['ResT:bar=3'], "unexpected keyword argument 'bar'"),
        (['ResFormer:taps=(0,1),pyramid=taps'], 'needs four taps'),
        (['ResT', '--device', 'cuda'], '--device cuda: torch sees no GPU here'),
        (['ResT', '--csv', '/nowhere/table.csv'], 'there is no folder /nowhere'),
        (['ResT', '--plot', '/nowhere/plot.png'], 'there is no folder /nowhere'),
        (['ResT', '--plot', 'plot.txt'], 'must end with one of'),
        (['configs/no_such_model.py'], 'config configs/no_such_model.py is not there'),
        (['ResT', '--cfg-options', 'model.x=1'], '--cfg-options change configs, and none is'),
        (
            ['retinanet_rest_lite_shapes', '--cfg-options', 'model.backbone.arch=huge'],
            "unknown arch 'huge'",
        ),
        (['ResT', '--against', 'NoSuchNet'], 'no backbone NoSuchNet is registered'),
    ],
    ids=str,
)
def test_bad_arguments_are_named(run_tool: Run, arguments: list[str], message: str) -> None:
    result = run_tool('benchmark.py', *arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert 'Traceback' not in result.stderr


def test_a_model_that_fails_is_a_row_with_the_reason(run_tool: Run) -> None:
    model = 'torch.nn.Linear:in_features=2,out_features=2'
    result = run_tool('benchmark.py', model, '--shapes', '32x32', '--steps', 1)
    assert result.returncode != 0
    assert 'not every model could be measured' in result.stderr
    assert 'cannot be multiplied (96x32 and 2x2)' in result.stdout
