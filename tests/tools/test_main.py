"""``python -m mmrest``, from an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmrest import version
from mmrest.__main__ import COMMANDS, main
from mmrest.backbones import BACKBONES, ResT
from mmrest.errors import InputError
from mmrest.tools.list import configs_of, list_family, title_of
from tests import forked
from tests.conftest import ROOT

MMREST = Path(sys.executable).with_name('mmrest')
RUN = ROOT / 'mmrest/__main__.py'
Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv('MMREST_WEIGHTS', str(tmp_path / 'weights'))

    def start(*arguments: object) -> subprocess.CompletedProcess:
        return forked.run_script([str(RUN), *map(str, arguments)], tmp_path, dict(os.environ), 300)

    return start


def test_it_is_a_module_and_lists_its_commands(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, '-m', 'mmrest'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**__import__('os').environ, 'PYTHONPATH': str(ROOT)},
        check=True,
    )
    for name, does in COMMANDS.items():
        assert f'  {name} ' in result.stdout
        assert does in result.stdout
        assert (ROOT / f'mmrest/tools/{name}.py').exists()


def test_an_unknown_command_is_named(run: Run) -> None:
    result = run('trian')
    assert result.returncode == 1
    assert 'mmrest has no command trian; it has train, test' in result.stderr
    assert 'did you mean train?' in result.stderr
    assert run('--version').stdout.strip() == version.__version__


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_has_help_under_its_name(command: str, run: Run) -> None:
    result = run(command, '--help')
    assert result.returncode == 0, result.stderr
    assert f'usage: python -m mmrest {command} ' in result.stdout


def test_ctrl_c_while_a_command_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr('sys.argv', ['mmrest', 'train', 'config.py'])
    monkeypatch.setattr('importlib.import_module', interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def test_list_names_the_configs_of_a_family(run: Run) -> None:
    result = run('list', 'PVTV2')
    names = [line.split()[0] for line in result.stdout.splitlines()]
    assert names == configs_of('PVTV2')
    assert title_of('fpn_pvt_tiny_ade20k').startswith('Semantic FPN, PVT-tiny, ADE20K')
    result = run('list', 'yolo')
    assert result.returncode == 1
    assert 'no config has yolo in its name' in result.stderr
    assert 'did you mean ResT' in run('list', 'RestT').stderr


def test_a_family_without_configs_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, 'PoolMixer', ResT)
    with pytest.raises(InputError, match=r'^PoolMixer has no config yet$'):
        list_family('PoolMixer')


def test_list_without_a_family_names_all(run: Run) -> None:
    result = run('list')
    assert result.returncode == 0, result.stderr
    first, *lines, last = result.stdout.splitlines()
    assert first == 'family: variants (million parameters); configs'
    assert last == 'python -m mmrest list FAMILY names the configs.'
    families = {line.partition(': ')[0]: line for line in lines}
    assert list(families) == list(BACKBONES)
    for name, line in families.items():
        assert line.endswith(f'; {len(configs_of(name))} configs')
        assert re.findall(r'(\w+) \(', line) == list(BACKBONES[name].variants)
    # the paper's 10.49 and 13.66 million (arXiv 2105.13677, table 2) without 512 x 1000 + 1000
    assert 'lite (10.0), small (13.2)' in families['ResT']


def test_info_tells_what_a_config_comes_to(run: Run) -> None:
    result = run('info', 'mask_rcnn_gpvitadapter_l1_coco', '--shape', '64x96')
    assert result.returncode == 0, result.stderr
    facts = dict(line.split(': ', 1) for line in result.stdout.splitlines())
    assert facts['model'] == 'MaskRCNN (mmdet)'
    # the authors' README says 33 M
    assert facts['parameters'] == '33.52 M'
    assert facts['backbone'].startswith('GPViTAdapter, 12.08 M')
    assert facts['levels'].split('; ')[2] == 'stride 16, 216 channels, 4x6'
    assert facts['starts from'] == 'mmrest://gpvit_l1'


def test_info_takes_the_configs_own_size(run: Run) -> None:
    result = run('info', 'retinanet_rest_lite_shapes', '--cfg-options', 'load_from=mine.pth')
    assert 'stride 8, 128 channels, 12x24' in result.stdout
    assert 'starts from: mine.pth' in result.stdout
    assert '800x1333' in run('info', 'retinanet_rest_small_coco').stdout
    assert '512x512' in run('info', 'upernet_rest_small_ade20k').stdout


def test_info_measures_what_the_options_make(run: Run) -> None:
    # which fails in a training step, and not before
    options = '--cfg-options', 'model.bbox_head.loss_bbox.type=CrossEntropyLoss'
    name = 'retinanet_rest_lite_shapes'
    result = run('info', name, '--shape', '64x96', '--measure', *options)
    assert result.returncode == 1
    assert 'error: training step without optimizer: ' in result.stderr


def test_info_tells_that_a_neck_does_not_fit(run: Run) -> None:
    options = '--cfg-options', 'model.neck.in_channels=[64,128,256]'
    result = run('info', 'retinanet_rest_lite_shapes', *options)
    told = 'will fail: model.neck (FPN) takes in_channels=[64, 128, 256], and the backbone'
    assert told in result.stdout
    assert result.returncode == 1


def test_info_tells_of_anchors_elsewhere(run: Run) -> None:
    result = run('info', 'retinanet_rest_lite_shapes', '--cfg-options', 'model.neck.start_level=1')
    assert result.returncode == 0  # mmdet trains it
    assert 'doubtful: the anchors of model.bbox_head are for' in result.stdout


def test_sweep_says_what_it_tests(run: Run) -> None:
    said = ' '.join(run('sweep', '--help').stdout.split())
    assert 'at several resolutions: by default at 0.5, 0.7, 1.4, 2.0 times' in said


def test_weights_tells_what_is_here(run: Run, tmp_path: Path) -> None:
    (tmp_path / 'weights').mkdir()
    (tmp_path / 'weights/rest_base.pth').write_bytes(b'x')
    listed = {line.split()[0]: line for line in run('weights').stdout.splitlines()}
    assert ' yes ' in listed['rest_base']
    assert ' by hand ' in listed['rest_small']
    assert 'CC BY-NC-SA' in listed['p2t_tiny']
    told = run('weights', 'rest_small', 'rest_base').stdout
    assert 'access code rest' in told
    assert f'here: {tmp_path / "weights/rest_base.pth"}' in told
    entries = json.loads(run('weights', '--json').stdout)
    assert len(entries) == len(listed) - 3
    result = run('weights', '--download')
    assert result.returncode == 1
    assert 'name what to fetch' in result.stderr


@pytest.mark.parametrize('program', ['-m mmrest', 'tools/train.py', str(MMREST)])
def test_an_interruption_while_libraries_load_is_no_traceback(program: str, tmp_path: Path) -> None:
    # the first library that is imported is interrupted
    (tmp_path / 'torch.py').write_text('import signal\nsignal.raise_signal(signal.SIGINT)\n')
    result = subprocess.run(
        [sys.executable, *program.split(), 'train'],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (130, 'ended by SIGINT\n')
