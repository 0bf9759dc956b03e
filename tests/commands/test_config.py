from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from mmengine.config import Config

from mmrest.commands import load_config, move_data_root
from mmrest.commands.config import find_config
from mmrest.errors import InputError
from tests.conftest import ROOT

RETINANET = str(ROOT / 'configs/retinanet_rest_small_coco.py')


def test_a_wrong_path_suggests_the_right_one() -> None:
    with pytest.raises(InputError, match=r'did you mean .*retinanet_rest_small_coco\.py'):
        load_config(RETINANET.replace('small_coco', 'smal_coco'))
    with pytest.raises(InputError, match=r'config nowhere/a\.py is not there'):
        load_config('nowhere/a.py')


def test_a_base_of_another_package_that_is_misspelt_names_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / 'mine.py'
    file.write_text("_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coc.py'")
    with pytest.raises(InputError, match=r'did you mean retinanet_r50_fpn_1x_coco\.py'):
        load_config(str(file))


@pytest.mark.parametrize('name', ['shapes', 'RetinaNet'])
def test_a_part_of_a_name_is_told_who_lists_it(name: str) -> None:
    with pytest.raises(InputError, match=rf'is not there; `list {name}` shows those'):
        load_config(name)


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        (
            "_base_ = 'mmdet::retinanet_rest_lite_shapes.py'",
            r"did you mean _base_ = 'mmrest::retinanet_rest_lite_shapes\.py'\?$",
        ),
        ("_base_ = 'retinanet_rest_lite_shapes.py'", r'did you mean _base_ = .mmrest::retinanet_'),
        (
            "_base_ = ['mmdet::retinanet/retinanet_rest_lite_shapes.py']",
            r'did you mean _base_ = .mmrest::retinanet_rest_lite_shapes',
        ),
        ("_base_ = 'mmfoo::retinanet/a.py'", r'AssertionError: .*mmfoo'),
        ('model = dict(num_classes=N)', r"NameError: name 'N' is not defined \(.*mine\.py:1\)"),
        ('model = dict(', 'SyntaxError: '),
        ('1 / 0', 'ZeroDivisionError: division by zero'),
    ],
)
def test_a_config_that_fails_is_named_with_the_reason(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / 'mine.py'
    file.write_text(text)
    with pytest.raises(InputError, match=rf'mine\.py is no config that can be read: .*{said}'):
        load_config(str(file))


@pytest.mark.parametrize(
    'name', ['retinanet_rest_lite_shapes', 'mmrest::retinanet_rest_lite_shapes']
)
def test_a_name_may_have_the_ending_that_base_has(name: str) -> None:
    assert find_config(f'{name}.py') == find_config(name)


def test_data_root_moves_every_data_set_and_evaluator(tmp_path: Path) -> None:
    cfg = load_config(RETINANET, data_root=str(tmp_path))
    for split in ('train', 'val', 'test'):
        assert Path(cfg[f'{split}_dataloader'].dataset.data_root) == tmp_path
    for split in ('val', 'test'):
        assert cfg[f'{split}_evaluator'].ann_file == (
            f'{tmp_path}/annotations/instances_val2017.json'
        )
    assert 'data/coco' not in cfg.pretty_text


def test_data_root_reaches_wrapped_data_sets(tmp_path: Path) -> None:
    leaf = dict(type='CocoDataset', data_root='old', ann_file='a.json')
    cfg = Config(
        dict(
            train_dataloader=dict(
                dataset=dict(
                    type='RepeatDataset',
                    dataset=dict(type='ConcatDataset', datasets=[leaf, dict(leaf)]),
                )
            ),
            test_evaluator=[dict(ann_file='old/a.json'), dict(ann_file='older/a.json')],
        )
    )
    move_data_root(cfg, str(tmp_path))
    for inner in cfg.train_dataloader.dataset.dataset.datasets:
        assert Path(inner.data_root) == tmp_path
    assert cfg.test_evaluator[0].ann_file == f'{tmp_path}/a.json'
    assert cfg.test_evaluator[1].ann_file == 'older/a.json'


def test_data_root_refuses_what_it_cannot_move(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='is no folder'):
        load_config(RETINANET, data_root=str(tmp_path / 'none'))
    loaders = {
        f'{split}_dataloader': dict(dataset=dict(data_root=root))
        for split, root in (('train', 'a'), ('val', 'b'))
    }
    with pytest.raises(InputError, match=r"this one has \['a', 'b'\]"):
        move_data_root(Config(loaders), str(tmp_path))


def test_work_dir_and_launcher() -> None:
    cfg = load_config(RETINANET, {'train_cfg.max_epochs': 1}, launcher='pytorch')
    assert cfg.work_dir == 'work_dirs/retinanet_rest_small_coco'
    assert cfg.train_cfg.max_epochs == 1
    assert cfg.launcher == 'pytorch'
    assert load_config(RETINANET, work_dir='x').work_dir == 'x'


def test_a_module_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    file = tmp_path / 'mine.py'
    file.write_text("custom_imports = dict(imports=['mmrset'])\n")
    with pytest.raises(InputError, match=r"mmrset cannot be .* 'mmrset'\); did you mean mmrest\?"):
        load_config(str(file))
    if importlib.util.find_spec('mmpretrain') is None:
        file.write_text("custom_imports = dict(imports=['mmpretrain.models'])\n")
        with pytest.raises(InputError, match=r'mmpretrain\.models needs mmpretrain, which is not'):
            load_config(str(file))
    (tmp_path / 'broken.py').write_text('import mmrest\nimport no_such_module\n')
    file.write_text("custom_imports = dict(imports=['broken'])\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        with pytest.raises(InputError, match=r"broken cannot be .* 'no_such_module'"):
            load_config(str(file))


def test_a_name_of_the_package_may_be_written_as_in_a_base() -> None:
    name = 'retinanet_rest_lite_shapes'
    for text in (name, f'mmrest::{name}', f'mmrest::{name}.py'):
        assert find_config(text).stem == name


def test_a_library_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / 'mine.py'
    file.write_text("default_scope = 'mmseg'\nmodel = dict(type='A')\n")
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match=r'needs mmseg.*pip install onedl-mmsegmentation'):
        load_config(str(file))


def test_a_checkpoint_in_the_place_of_a_config_is_told(tmp_path: Path) -> None:
    (tmp_path / 'epoch_1.pth').write_bytes(b'')
    with pytest.raises(InputError, match=r'epoch_1\.pth is a checkpoint, not a config'):
        load_config(str(tmp_path / 'epoch_1.pth'))
    with pytest.raises(InputError, match=rf'mine\.py is not there \(looked in {tmp_path}\)'):
        load_config(str(tmp_path / 'mine.py'))
