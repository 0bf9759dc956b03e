"""Configs of the package by their names, in a wheel, in bases and in commands."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from mmengine.config import Config

import mmrest
from mmrest.commands import load_config
from mmrest.errors import InputError
from mmrest.lookup import understand_names_in_bases
from tests.conftest import ROOT

NAME = 'retinanet_rest_lite_shapes'


def test_every_config_has_a_name() -> None:
    assert mmrest.config_names() == sorted(path.stem for path in ROOT.glob('configs/*.py'))


@pytest.mark.parametrize('name', [NAME, f'{NAME}.py', f'mmrest::{NAME}', f'mmrest::{NAME}.py'])
def test_a_name_finds_its_file(name: str) -> None:
    assert Path(mmrest.config_path(name)).samefile(ROOT / f'configs/{NAME}.py')


def test_a_name_that_is_none_is_answered_with_those_like_it() -> None:
    with pytest.raises(InputError, match=f'no config retinanet_rest_lit_shapes; .*{NAME}'):
        mmrest.config_path('retinanet_rest_lit_shapes')
    with pytest.raises(InputError, match=f'is not there; did you mean .*{NAME}'):
        load_config('retinanet_rest_lit_shapes')


def test_a_command_takes_a_name_and_a_file_of_that_name_goes_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = load_config(NAME)
    assert cfg.model.backbone.type == 'mmrest.ResT'
    assert cfg.work_dir == f'work_dirs/{NAME}'
    (tmp_path / f'{NAME}.py').write_text('model = dict(type="Mine")\n')
    assert load_config(f'{NAME}.py').model.type == 'Mine'


@pytest.mark.parametrize(
    'base',
    [f"'mmrest::{NAME}.py'", f"['mmrest::{NAME}']", f"__import__('mmrest').config_path('{NAME}')"],
)
def test_a_base_may_be_a_name(base: str, tmp_path: Path) -> None:
    file = tmp_path / 'mine.py'
    file.write_text(
        f'_base_ = {base}\n'
        'train_pipeline = _base_.train_pipeline\n'
        'model = dict(backbone=dict(drop_path_rate=0.3))\n'
    )
    cfg, theirs = Config.fromfile(file), mmrest.get_config(NAME)
    assert cfg.model.backbone == {**theirs.model.backbone, 'drop_path_rate': 0.3}
    # in the scope that the config names, not in one of ours
    assert '_scope_' not in cfg.pretty_text
    assert cfg.train_pipeline == theirs.train_pipeline


def test_bases_of_other_packages_are_found_as_before(tmp_path: Path) -> None:
    file = tmp_path / 'mine.py'
    file.write_text("_base_ = 'mmdet::_base_/default_runtime.py'\n")
    assert Config.fromfile(file).default_scope == 'mmdet'


def test_a_wheel_has_all_that_a_clone_has(tmp_path: Path) -> None:
    """Built from a copy: a build leaves files behind."""
    import shutil

    source = tmp_path / 'source'
    ignored = shutil.ignore_patterns('.*venv*', '.git', 'data', 'work_dirs', 'build', '*.egg-info')
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
    subprocess.run(
        [
            *(sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation'),
            *('--quiet', '--wheel-dir', str(tmp_path), str(source)),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob('mmrest-*.whl')
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {str(path.relative_to(ROOT)) for path in ROOT.glob('configs/**/*.py')}
    assert {f'mmrest/.mim/{name}' for name in configs} <= names
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob('mmrest/**/*.py')}
    assert modules <= names
    data = 'checkpoints/published.csv', '.mim/model-index.yml', '.mim/configs/metafile.yml'
    assert {f'mmrest/{name}' for name in data} <= names


def test_mmengines_lookup_is_changed_once() -> None:
    changed = Config._get_cfg_path
    understand_names_in_bases()
    assert Config._get_cfg_path is changed


def test_a_file_in_the_place_of_a_name_is_told_who_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('mine.py').touch()
    with pytest.raises(InputError, match=r"mmengine\.Config\.fromfile\('mine\.py'\) reads"):
        mmrest.get_config('mine.py')
