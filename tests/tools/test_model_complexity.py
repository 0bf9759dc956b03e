"""The figures in the documents are those that the tool computes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

import pytest

from tests.conftest import ROOT

Run = Callable[..., subprocess.CompletedProcess]


def rows(text: str) -> list[list[str]]:
    """Cells of the rows of Markdown tables."""
    lines = [line for line in text.splitlines() if line.startswith('| ')]
    return [[cell.strip(' `') for cell in line.strip('|').split('|')] for line in lines]


@pytest.mark.parametrize(
    ('families', 'count'),
    [
        (['ResT'], 5),
        pytest.param(['ResTV2', 'ResFormer', 'MViTV2'], 15, marks=pytest.mark.slow),
    ],
)
def test_the_variants_of_the_readme(families: list[str], count: int, run_tool: Run) -> None:
    computed = rows(run_tool('model_complexity.py', *families).stdout)
    written = rows((ROOT / 'docs/parameters.md').read_text())
    assert len(computed) == count
    for row in computed:
        assert row in [other[: len(row)] for other in written]


def test_forms_of_a_family_are_counted(run_tool: Run) -> None:
    written = [
        row for row in rows((ROOT / 'docs/parameters.md').read_text()) if 'MViTV2:' in row[0]
    ]
    assert len(written) == 7
    options = ['--shapes', '224x224']
    result = run_tool('model_complexity.py', *(row[0] for row in written), *options)
    assert result.returncode == 0, result.stderr
    assert rows(result.stdout)[1:] == [row[:3] for row in written]
    for _, _, counted, figure in written[:3] + written[4:]:  # large's is large_cls'
        assert float(counted) == pytest.approx(float(figure), rel=0.011)
    result = run_tool('model_complexity.py', 'MViTV2:arch=tiny,positions=some', *options)
    assert result.returncode == 1
    assert "positions='some' must be one of" in result.stderr


def test_an_unknown_family_is_named(run_tool: Run) -> None:
    result = run_tool('model_complexity.py', 'ResNet')
    assert result.returncode == 1
    assert 'no family ResNet; there are CSWin' in result.stderr
    result = run_tool('model_complexity.py', 'retinanet_rest_lite_shape')
    assert 'did you mean retinanet_rest_lite_shapes?' in result.stderr


def test_configs_and_families_may_be_named_together(run_tool: Run) -> None:
    options = ['--shapes', '224x224']
    result = run_tool('model_complexity.py', 'ResT', 'retinanet_rest_lite_shapes', *options)
    assert result.returncode == 0, result.stderr
    table = rows(result.stdout)
    assert [row[0] for row in table[:3]] == ['config', 'retinanet_rest_lite_shapes', 'backbone']
    (lite,) = (row for row in table if row[0] == 'ResT lite')
    assert lite[1:] == [table[1][2], table[1][4]]  # parameters and GMACs of the same backbone


def test_the_whole_models_of_the_docs(run_tool: Run) -> None:
    tables = rows((ROOT / 'docs/parameters.md').read_text())
    written = [row for row in tables if row[0].endswith('.py') and len(row) == 5]
    configs = [f'configs/{row[0]}' for row in written]
    result = run_tool('model_complexity.py', '--configs', *configs)
    assert result.returncode == 0, result.stderr
    computed = [[row[0].removeprefix('configs/'), *row[1:]] for row in rows(result.stdout)[1:]]
    assert computed == [row[:4] for row in written]
    for row in written:
        # every figure of the authors but one agrees to its last digit
        quoted = re.findall(r'\d+(?:\.\d)?', row[4])
        assert any(
            abs(float(row[1]) - float(figure)) <= (0.051 if '.' in figure else 0.5)
            for figure in quoted
        )


@pytest.mark.slow
@pytest.mark.parametrize('detector', ['mask_rcnn', 'cascade_mask_rcnn'])
def test_the_multiply_adds_of_the_docs(detector: str, run_tool: Run) -> None:
    name = f'{detector}_mvitv2_tiny_coco.py'
    options = ['--whole', '--shapes', '800x1280']
    result = run_tool('model_complexity.py', f'configs/{name}', *options)
    (computed,) = (row for row in rows(result.stdout) if row[0].endswith(name))
    tables = rows((ROOT / 'docs/parameters.md').read_text())
    (written,) = (row for row in tables if row[0] == name and len(row) == 4)
    assert computed[-2:] == written[1:3]


def test_the_papers_flops_agree_within_six_thousandths() -> None:
    tables = rows((ROOT / 'docs/parameters.md').read_text())
    written = [row for row in tables if row[0].endswith('.py') and len(row) == 4]
    assert len(written) == 6
    for *_, whole, paper in written:
        assert float(whole) == pytest.approx(float(paper), rel=0.006)


def test_whole_models_are_counted_with_their_heads(run_tool: Run) -> None:
    options = ['--whole', '--shapes', '64x64']
    result = run_tool('model_complexity.py', 'retinanet_rest_lite_shapes', *options)
    assert result.returncode == 0, result.stderr
    backbone, whole = map(float, rows(result.stdout)[1][-2:])
    assert whole > 1.2 * backbone
    for wrong in (['--whole'], ['ResT', *options]):
        result = run_tool('model_complexity.py', *wrong)
        assert result.returncode == 1
        assert '--whole counts multiply-adds of configs' in result.stderr
