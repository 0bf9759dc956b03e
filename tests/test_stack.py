"""A broken stack is simulated in a process of its own, where modules are hidden or replaced."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import pytest

from mmrest import stack
from tests.conftest import ROOT

PRELUDE = """
    import importlib, importlib.metadata, sys
    class Hide:
        def __init__(self, name, reason):
            self.name, self.reason = name, reason
        def find_spec(self, name, path=None, target=None):
            if name == self.name:
                raise ModuleNotFoundError(self.reason, name=name)
    def hide(name, reason=None):
        sys.meta_path.insert(0, Hide(name, reason or f'No module named {name!r}'))
    real = importlib.metadata.version
    def pretend(**versions):
        def version(name):
            key = name.replace('-', '_')
            if key not in versions:
                return real(name)
            if versions[key] is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[key]
        importlib.metadata.version = version
"""


@pytest.mark.parametrize(
    ('breakage', 'diagnosis', 'remedy'),
    [
        ("hide('mmengine')", 'mmengine cannot be imported', 'pip install onedl-mmengine'),
        ("hide('mmcv')", 'mmcv cannot be imported', 'MMCV_WITH_OPS=1 pip install'),
        ("hide('torch')", 'torch cannot be imported', 'pip install torch'),
        (
            "import torch; hide('mmcv._ext', 'undefined symbol')",
            'no compiled operators for torch .*undefined symbol',
            'MMCV_WITH_OPS=1 pip install --no-build-isolation',
        ),
        (
            "hide('mmengine', \"No module named 'pkg_resources'\"); pretend(mmengine='0.10.7', "
            'onedl_mmengine=None)',
            'mmengine 0.10.7 needs pkg_resources',
            'pip install "setuptools<81"',
        ),
        (
            "pretend(mmcv='2.1.0', onedl_mmcv='2.3.6')",
            'both onedl-mmcv and mmcv are installed',
            'pip uninstall -y onedl-mmcv mmcv',
        ),
        (
            "pretend(mmsegmentation='1.2.2', onedl_mmsegmentation=None); "
            'import importlib.util as u; find = u.find_spec; '
            "u.find_spec = lambda n: None if n == 'ftfy' else find(n)",
            'mmsegmentation imports ftfy without requiring it',
            'pip install ftfy',
        ),
        (
            "import torch; torch.__version__ = '2.1.2'",
            'needs torch >= 2.6 .* this is 2.1.2',
            'pip install --upgrade torch',
        ),
    ],
    ids=['mmengine', 'mmcv', 'torch', 'ops', 'setuptools', 'mixed', 'ftfy', 'old torch'],
)
def test_a_broken_stack_is_diagnosed_at_import(breakage: str, diagnosis: str, remedy: str) -> None:
    code = f'{textwrap.dedent(PRELUDE)}\n{breakage}\nimport mmrest'
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode != 0
    assert 'BrokenStackError' in result.stderr
    text = result.stderr.split('BrokenStackError', 1)[1]
    assert re.search(diagnosis, text)
    assert remedy in text


def test_this_stack_is_sound() -> None:
    stack.check_stack()


def test_backbones_need_neither_mmdet_nor_mmseg() -> None:
    code = """
        import sys
        sys.modules['mmdet'] = sys.modules['mmseg'] = None
        import mmrest, torch
        from mmengine.registry import MODELS
        print(len(MODELS.build(dict(type='ResT', arch='lite'))(torch.rand(1, 3, 65, 33))))
    """
    result = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert result.stdout.strip().endswith('4'), result.stderr


@pytest.mark.parametrize(
    ('given', 'asked'),
    [
        ('python -m mmrest doctor', True),
        ('python -X dev -m mmrest doctor --json', True),
        ('python /opt/venv/bin/mmrest doctor', True),
        ('python C:/venv/Scripts/mmrest.exe doctor', True),
        ('python -m mmrest train doctor', False),
        ('python train.py', False),
    ],
)
def test_the_doctor_is_called_before_anything_is_checked(
    given: str, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'orig_argv', given.split())
    assert stack.is_asked_by_doctor() is asked
