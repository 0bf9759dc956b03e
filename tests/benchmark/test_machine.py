"""What a measurement says of the machine."""

from __future__ import annotations

import re
import subprocess

import pytest

from mmrest.benchmark.machine import find_commit


def test_a_wheel_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r'([0-9a-f]{10}\+?)?', find_commit())

    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError('git')

    monkeypatch.setattr(subprocess, 'run', fail)
    assert find_commit() == ''
