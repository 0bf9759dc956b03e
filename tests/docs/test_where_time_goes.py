"""docs/scripts/where_time_goes.py, at a size too small to be worth measuring."""

from __future__ import annotations

import csv
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., subprocess.CompletedProcess]
KINDS = ['convolutions', 'products', 'norms', 'softmax and GELU', 'copies, sums and all else']


def test_kinds_are_told_apart_and_make_up_the_step(run_script: Run, tmp_path: Path) -> None:
    file = tmp_path / 'time.csv'
    result = run_script(
        'where_time_goes.py', 'MViTV2:arch=tiny', '--shape', '64x64', '--steps', 1, '--mode',
        'infer', 'train', '--threads', 1, '--csv', file,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    with open(file, newline='') as table:
        rows = list(csv.DictReader(table))
    assert [row['kind'] for row in rows] == 4 * KINDS
    assert [(row['impl'], row['mode']) for row in rows[:: len(KINDS)]] == [
        (impl, mode) for mode in ('infer', 'train') for impl in ('auto', 'reference')
    ]
    for start in range(0, len(rows), len(KINDS)):
        shares = [float(row['% of step']) for row in rows[start : start + len(KINDS)]]
        assert min(shares) > 0
        assert abs(sum(shares) - 100) <= 2
    again = run_script('where_time_goes.py', 'MViTV2', '--csv', file)
    assert again.returncode == 1
    assert '--force replaces it' in again.stderr
    assert 'Traceback' not in again.stderr


def test_no_operator_of_a_step_is_taken_for_another_kind() -> None:
    script = Path(__file__).parents[2] / 'docs/scripts/where_time_goes.py'
    kind_of = runpy.run_path(str(script))['kind_of']
    expected = {
        'convolutions': ('aten::mkldnn_convolution', 'aten::convolution_backward'),
        'products': ('aten::addmm_', 'aten::bmm', 'aten::mm', 'mkldnn::_linear_pointwise'),
        'norms': ('aten::native_layer_norm_backward', 'aten::native_batch_norm'),
        'softmax and GELU': ('aten::_softmax_backward_data', 'aten::gelu'),
        'copies, sums and all else': ('aten::copy_', 'aten::linalg_vector_norm', 'mmrest::mlp'),
    }
    for kind, operators in expected.items():
        assert {kind_of(operator) for operator in operators} == {kind}
