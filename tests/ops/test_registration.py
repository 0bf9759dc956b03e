from __future__ import annotations

import subprocess
import sys

from tests.backbones.families import ROWS
from tests.conftest import ROOT

STEPS = """
import sys
import torch
from tests.backbones.families import ROWS, build
before = 'torch._dynamo' in sys.modules  # mmengine imports it by torch 2.6's optimizers
for family in ROWS:
    levels = build(family)(torch.randn(2, 3, 64, 96))
    sum(level.square().mean() for level in levels).backward()
    print(family.__name__, before == ('torch._dynamo' in sys.modules))
"""


def test_no_training_step_imports_the_compiler() -> None:
    """In a process of its own: other tests compile."""
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', STEPS], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stdout.splitlines() == [f'{family.__name__} True' for family in ROWS], (
        result.stderr
    )
