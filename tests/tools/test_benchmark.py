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
    models = ['ResT:arch=lite', 'mmdet.ResNet:depth=18']
    result = run_tool(
        'benchmark.py', *models, '--shapes', '32x40', '64x64', '--mode', 'infer', 'train',
        '--steps', 2, '--threads', 1, '--csv', file,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    with open(file, newline='') as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 8
    assert [row['model'] for row in rows] == models * 4
    for row in rows:
        assert float(row['ms']) > 0
        assert float(row['peak MB']) > float(row['work MB']) >= 0
        assert row['torch']
        assert row['threads'] == '1'
        assert float(row['ratio']) > 0
        assert row['ratio'] == '1.00' or row['model'] != models[0]
    parameters = {row['model']: row['parameters (M)'] for row in rows}
    assert parameters['ResT:arch=lite'] == '10.00'
    again = run_tool('benchmark.py', 'ResT', '--csv', file)
    assert again.returncode != 0
    assert '--force replaces it' in again.stderr


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['NoSuchNet'], 'no backbone NoSuchNet is registered'),
        (['ResT:arch'], 'write TYPE:key=value'),
        (['ResT:arch=huge'], "unknown arch 'huge'"),
        (['ResT', '--shapes', '32'], '32 is no image size'),
        (['ResT', '--steps', '0'], 'must be at least 1'),
        (['ResT', '--threads', '-1'], 'at least 0'),
        (['ResT:bar=3'], "unexpected keyword argument 'bar'"),
        (['ResFormer:taps=(0,1),pyramid=taps'], 'needs four taps'),
        (['ResT', '--csv', '/nowhere/table.csv'], 'cannot be written'),
    ],
    ids=str,
)
def test_bad_arguments_are_named(run_tool: Run, arguments: list[str], message: str) -> None:
    result = run_tool('benchmark.py', *arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert 'Traceback' not in result.stderr


def test_a_model_that_fails_is_a_row_with_the_reason(run_tool: Run) -> None:
    result = run_tool(
        'benchmark.py', 'ResT:arch=lite,in_channels=4', '--shapes', '32x32', '--steps', 1
    )
    assert result.returncode != 0
    assert 'not every model could be measured' in result.stderr
    assert 'takes images of shape (B, 4, H, W)' in result.stdout
