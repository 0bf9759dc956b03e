"""docs/scripts/attention_floors.py, at sizes too small to be worth measuring."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess]


@pytest.mark.slow
def test_floors_are_those_of_a_hand_calculation(run_script: Run, tmp_path: Path) -> None:
    file = tmp_path / 'floors.csv'
    result = run_script(
        'attention_floors.py', 'ResT:arch=lite', '--shape', '256x320', '--impl', 'auto',
        'reference', '--threads', 1, '--csv', file,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    with open(file, newline='') as table:
        rows = list(csv.DictReader(table))
    # four stages of two blocks each, in two ways, in inference and training
    assert len(rows) == 16
    assert {row['times'] for row in rows} == {'2'}
    # the first stage: 64 x 80 queries, an eighth of them along each side as keys
    infer, train = (
        next(row for row in rows if row['attention'].startswith('1 heads') and row['mode'] == mode)
        for mode in ('infer', 'train')
    )
    assert infer['attention'] == '1 heads, 5120 x 80 of 64'
    queries, keys = 4 * 5120 * 64, 4 * 80 * 64
    for row, moved, products in (
        (infer, 2 * queries + 2 * keys, 2),
        (train, 6 * queries + 6 * keys, 7),
    ):
        seconds = [1e-3 * float(row[f'{name} floor (ms)']) for name in ('memory', 'arithmetic')]
        assert seconds[0] * float(row['GB/s']) * 1e9 == pytest.approx(moved, rel=0.05)
        # each product, and the mix of one head in the forward and thrice in the backward pass
        operations = 2 * products * 5120 * 80 * 64 + 2 * 5120 * 80 * (1 if row is infer else 4)
        assert seconds[1] * float(row['peak GFLOP/s']) * 1e9 == pytest.approx(operations, rel=0.05)
        ratio = float(row['ms']) / max(1e3 * s for s in seconds)
        assert float(row['time / floor']) == pytest.approx(ratio, rel=0.1)
    again = run_script('attention_floors.py', 'ResT', '--csv', file)
    assert again.returncode != 0
    assert '--force replaces it' in again.stderr


def test_plain_attention_is_found_too(run_script: Run) -> None:
    model = 'ResFormer:arch=tiny,window_size=3'
    result = run_script('attention_floors.py', model, '--shape', '64x64', '--mode', 'infer')
    assert result.returncode == 0, result.stderr
    assert '3 heads, 17 x 17 of 64' in result.stdout
    assert result.stdout.count('| auto | infer |') >= 4


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['configs/retinanet_rest_lite_shapes.py'], 'name a backbone'),
        (['mmdet.ResNet:depth=18', '--shape', '64x64'], "has no attention of mmrest's"),
        (['ResT', '--csv', '/nowhere/table.csv'], 'there is no folder /nowhere'),
    ],
    ids=str,
)
def test_bad_arguments_are_named(run_script: Run, arguments: list[str], message: str) -> None:
    result = run_script('attention_floors.py', *arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert 'Traceback' not in result.stderr
