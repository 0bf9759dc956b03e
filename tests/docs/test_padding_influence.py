"""docs/scripts/padding_influence.py."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

Run = Callable[..., subprocess.CompletedProcess]


def test_measures_every_backbone(run_script: Run) -> None:
    result = run_script('padding_influence.py', '--shape', '40x50', '--padded', '64x50', '80x96')
    assert result.returncode == 0, result.stderr
    rows = [line.strip('| ').split(' | ') for line in result.stdout.splitlines()[2:]]
    assert len(rows) == 8
    for _, _, changes, told in rows:
        assert float(told) < 1e-3
        assert max(float(change.rstrip('%')) for change in changes.split(', ')) > 1


def test_bad_arguments_are_named(run_script: Run) -> None:
    result = run_script('padding_influence.py', '--shape', '40x50', '--padded', '32x64')
    assert result.returncode != 0
    assert 'must not be smaller than the picture' in result.stderr
