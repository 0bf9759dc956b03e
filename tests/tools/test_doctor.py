"""Ten broken environments, each made in a process of its own, and what the doctor says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_stack import PRELUDE

RUN = """
    import runpy
    sys.orig_argv = [sys.executable, '-m', 'mmrest', 'doctor', '--json']
    sys.argv = ['mmrest', 'doctor', '--json']
    runpy.run_module('mmrest', run_name='__main__')
"""
LINKED = 'import torch; torch.version.cuda = None; import shutil; shutil.which = lambda name: name'


def examined(breakage: str, tmp_path: Path, **environment: str) -> tuple[int, dict[str, dict]]:
    """Exit status, and topic -> worst finding."""
    code = f'{textwrap.dedent(PRELUDE)}\n{breakage}\n{textwrap.dedent(RUN)}'
    result = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            **os.environ,
            'PYTHONPATH': str(ROOT),
            'MMREST_WEIGHTS': str(tmp_path / 'weights'),
            **environment,
        },
        check=False,
    )
    assert result.stdout, result.stderr
    order = 'ok', 'note', 'warning', 'problem'
    findings: dict[str, dict] = {}
    for finding in json.loads(result.stdout[result.stdout.index('[') :]):
        known = findings.setdefault(finding['topic'], finding)
        if order.index(finding['status']) > order.index(known['status']):
            findings[finding['topic']] = finding
    return result.returncode, findings


def test_a_sound_environment(tmp_path: Path) -> None:
    status, findings = examined('', tmp_path)
    assert status == 0, findings
    assert not [f for f in findings.values() if f['status'] == 'problem']
    assert findings['attention']['text'].startswith('auto')
    assert findings['weights']['text'].startswith('0 of')


# name -> what is broken; topic, cause and mend of the finding
BROKEN = {
    'torch': ("hide('torch')", 'stack', 'torch cannot be imported', 'pip install torch'),
    'mmcv': ("hide('mmcv')", 'stack', 'mmcv cannot be imported', 'MMCV_WITH_OPS=1 pip install'),
    'operators': (
        "import torch; hide('mmcv._ext', 'undefined symbol')",
        'stack',
        'no compiled operators for torch',
        '--no-build-isolation',
    ),
    'mixed': (
        "pretend(mmcv='2.1.0', onedl_mmcv='2.3.6')",
        'stack',
        'overwrite each other',
        'pip uninstall -y onedl-mmcv mmcv',
    ),
    'setuptools': (
        "hide('mmengine', \"No module named 'pkg_resources'\"); "
        "pretend(mmengine='0.10.7', onedl_mmengine=None)",
        'stack',
        'needs pkg_resources',
        'pip install "setuptools<81"',
    ),
    'old torch': (
        "import torch; torch.__version__ = '2.1.2'",
        'stack',
        'needs torch >= 2.6',
        'pip install --upgrade torch',
    ),
    'mmcv too new': (
        # what the original mmdet asserts
        "hide('mmdet.version', 'MMCV==2.3.0 is used but incompatible. Please install "
        "mmcv>=2.0.0rc4, <2.2.0.')",
        'mmdet',
        'MMCV==2.3.0 is used but incompatible',
        'mmcv>=2.0.0rc4,<2.2.0"',
    ),
    'a GPU for nothing': (
        LINKED,
        'GPU',
        'there is an NVIDIA driver',
        'pip install --force-reinstall torch',
    ),
    'opencv': (
        "pretend(opencv_python='4.12', opencv_python_headless='4.11')",
        'opencv',
        'overwrite each other in the folder cv2/',
        'pip uninstall -y opencv-python opencv-python-headless',
    ),
    'compiler': (
        'import shutil; shutil.which = lambda name: None',
        'compiler',
        'no C++ compiler',
        'apt install g++',
    ),
}
# each starts a process that loads everything
IN_EVERY_RUN = 'torch', 'operators', 'mmcv too new', 'a GPU for nothing', 'opencv'


@pytest.mark.parametrize(
    'name',
    [pytest.param(name, marks=[] if name in IN_EVERY_RUN else pytest.mark.slow) for name in BROKEN],
)
def test_a_broken_environment_is_named_with_its_mend(name: str, tmp_path: Path) -> None:
    breakage, topic, cause, mend = BROKEN[name]
    status, findings = examined(breakage, tmp_path)
    assert findings[topic]['status'] in ('problem', 'warning')
    assert status == int(any(f['status'] == 'problem' for f in findings.values()))
    assert cause in findings[topic]['text']
    assert mend in findings[topic]['mend']


def test_variables_that_are_wrong_are_named(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    status, findings = examined(
        '', tmp_path, MMREST_ATTENTION='flash', MMREST_WEIGHTS=str(tmp_path / 'file/weights')
    )
    assert status == 1
    assert 'unset MMREST_ATTENTION' in findings['attention']['mend']
    assert 'cannot be written' in findings['weights']['text']
    assert 'export MMREST_WEIGHTS=' in findings['weights']['mend']
