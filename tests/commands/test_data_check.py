from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS

from mmrest.commands import load_config, prepare_data, require_usable_data
from mmrest.commands.data_check import require_workers
from mmrest.datasets import CLASSES
from mmrest.errors import InputError
from tests.conftest import ROOT

RETINANET = str(ROOT / 'configs/retinanet_rest_small_coco.py')
SHAPES = str(ROOT / 'configs/retinanet_rest_lite_shapes.py')


@pytest.fixture
def coco(shapes_root: Path, tmp_path: Path) -> Path:
    """A complete data set in COCO's layout that a test may damage."""
    return Path(shutil.copytree(shapes_root, tmp_path / 'coco'))


def check(root: Path) -> None:
    prepare_data(load_config(RETINANET, data_root=str(root)), ['train', 'val'])


def test_a_complete_data_set_passes(coco: Path) -> None:
    check(coco)


def test_an_absent_data_set_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/mnist').mkdir()
    with pytest.raises(InputError) as error:
        prepare_data(load_config(RETINANET), ['train', 'val'])
    text = str(error.value)
    for part in (
        'data/coco/annotations/instances_train2017.json',
        'data/coco/val2017',
        'PROBLEM: missing',
        f'{tmp_path}/data holds: mnist/',
        'https://cocodataset.org/#download',
        '--data-root',
        'mmrest train retinanet_rest_lite_shapes',
    ):
        assert part in text


def test_each_kind_of_damage_is_found(coco: Path) -> None:
    annotations = coco / 'annotations/instances_val2017.json'
    content = annotations.read_text()
    annotations.write_text('')
    with pytest.raises(InputError, match=r'instances_val2017\.json .* PROBLEM: empty'):
        check(coco)
    annotations.unlink()
    with pytest.raises(InputError, match=r'instances_val2017\.json .* PROBLEM: missing'):
        check(coco)
    annotations.write_text(content)
    # unpacked one level too deep
    (coco / 'val2017').rename(coco / 'moved')
    (coco / 'val2017').mkdir()
    (coco / 'moved').rename(coco / 'val2017/val2017')
    deeper = r'val2017 .* PROBLEM: lacks 000000000001\.jpg, which is in .*val2017/val2017\n'
    with pytest.raises(InputError, match=deeper) as error:
        check(coco)
    assert '--data-root' not in str(error.value)
    shutil.rmtree(coco / 'train2017')  # for which nothing is known
    with pytest.raises(InputError, match=r'add --data-root FOLDER'):
        check(coco)


def test_a_folder_that_is_named_twice_is_shown(coco: Path) -> None:
    file = coco / 'annotations/instances_val2017.json'
    content = json.loads(file.read_text())
    for image in content['images']:
        image['file_name'] = f'val2017/{image["file_name"]}'
    file.write_text(json.dumps(content))
    said = r'lacks val2017/0+1\.jpg, which is in .*: the annotations name it with val2017/ in front'
    with pytest.raises(InputError, match=said):
        check(coco)


def test_images_of_another_place_are_found(coco: Path) -> None:
    for file in (coco / 'val2017').iterdir():
        file.rename(file.with_name(f'other-{file.name}'))
    with pytest.raises(InputError, match=r'val2017 .* PROBLEM: lacks 000000000001\.jpg'):
        check(coco)


def test_only_the_asked_splits_are_checked(coco: Path) -> None:
    shutil.rmtree(coco / 'train2017')
    cfg = load_config(RETINANET, data_root=str(coco))
    prepare_data(cfg, ['test'])
    with pytest.raises(InputError, match='train2017'):
        prepare_data(cfg, ['train'])


@pytest.mark.parametrize('argument', ['annfile', 'data_prefx', 'dataroot'])
def test_a_misspelt_path_is_told_and_not_the_file_of_the_base(argument: str, coco: Path) -> None:
    cfg = load_config(RETINANET, {f'train_dataloader.dataset.{argument}': 'x'}, str(coco))
    shutil.rmtree(coco / 'annotations')
    with pytest.raises(InputError, match=f"CocoDataset an argument '{argument}'.*did you mean"):
        prepare_data(cfg, ['train'])


def test_remote_data_is_left_to_its_backend() -> None:
    dataset = dict(type='CocoDataset', data_root='s3://bucket/coco/', ann_file='a.json')
    prepare_data(Config(dict(train_dataloader=dict(dataset=dataset))), ['train'])


def test_the_built_in_data_set_is_made(tmp_path: Path) -> None:
    root = tmp_path / 'shapes'
    options = {'built_in_data.num_train': 2, 'built_in_data.num_val': 1}
    cfg = load_config(SHAPES, options, data_root=str(root))
    prepare_data(cfg, ['train', 'val'])
    annotations = root / 'annotations/instances_train2017.json'
    annotations.unlink()
    with pytest.raises(InputError, match=f'Remove {root}'):
        prepare_data(cfg, ['train'])


def test_a_training_on_other_data_is_not_validated_on_the_built_in_set(tmp_path: Path) -> None:
    (tmp_path / 'mine').mkdir()
    cfg = load_config(SHAPES)
    cfg.built_in_data.root = str(tmp_path / 'made')
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(tmp_path / 'made')
    cfg.train_dataloader.dataset.data_root = str(tmp_path / 'mine')
    cfg.train_dataloader.dataset.metainfo = dict(classes=('box', 'ball'))
    with pytest.raises(InputError, match='write val_dataloader and val_evaluator, too'):
        prepare_data(cfg, ['train', 'val'])
    assert not (tmp_path / 'made').exists()


def test_one_with_the_same_classes_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cfg = load_config(SHAPES, data_root=str(tmp_path / 'made'))
    cfg.built_in_data.update(root=str(tmp_path / 'made'), num_train=2, num_val=1)
    prepare_data(cfg, ['train', 'val'])
    assert 'warning' not in capsys.readouterr().err
    shutil.copytree(tmp_path / 'made', tmp_path / 'mine')
    cfg.train_dataloader.dataset.data_root = str(tmp_path / 'mine')
    prepare_data(cfg, ['train', 'val'])
    assert f'val_dataloader still the built-in data set of the base ({tmp_path / "made"})' in (
        capsys.readouterr().err
    )


def test_the_built_in_data_set_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / 'precious.txt').write_text('mine')
    with pytest.raises(InputError, match='holds something else'):
        prepare_data(load_config(SHAPES, data_root=str(tmp_path)), ['train'])
    assert [p.name for p in tmp_path.iterdir()] == ['precious.txt']


def test_an_unknown_option_of_a_loader_is_named() -> None:
    with pytest.raises(InputError, match='no option batchsize; did you mean batch_size'):
        require_workers(dict(batchsize=2, num_workers=1), 'train')


def test_loaders_that_read_ahead_need_workers() -> None:
    require_workers(dict(num_workers=2, prefetch_factor=4, persistent_workers=True), 'train')
    with pytest.raises(InputError, match=r'prefetch_factor=4 needs num_workers of 1 or more'):
        require_workers(dict(num_workers=0, prefetch_factor=4), 'train')


def test_a_segmentors_folder_without_images_is_named(tmp_path: Path) -> None:
    cfg = Config.fromfile(ROOT / 'configs/upernet_restv2_tiny_ade20k.py')
    cfg.train_dataloader.dataset.data_root = str(tmp_path)
    images = tmp_path / 'images/training'
    with pytest.raises(InputError, match=rf'{images} .* PROBLEM: missing'):
        prepare_data(cfg, ['train'])
    images.mkdir(parents=True)
    with pytest.raises(InputError, match=rf'{images} .* PROBLEM: holds no files'):
        prepare_data(cfg, ['train'])


@pytest.mark.parametrize('drops', [True, False])
def test_annotations_without_objects_are_told_where_their_images_are_left_out(
    coco: Path, drops: bool
) -> None:
    annotations = coco / 'annotations/instances_train2017.json'
    content = json.loads(annotations.read_text())
    annotations.write_text(json.dumps({**content, 'annotations': []}))
    cfg = load_config(RETINANET, data_root=str(coco))
    cfg.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=drops)
    cfg.train_dataloader.dataset.metainfo = dict(classes=CLASSES)
    if drops:
        with pytest.raises(InputError, match=r'instances_train2017\.json has no annotations, and'):
            require_usable_data(cfg, ['train'])
    else:
        require_usable_data(cfg, ['train'])


@pytest.mark.parametrize('change', [dict(width=16), dict(height=16), None])
def test_an_image_that_mmdet_never_reads_need_not_be_there(coco: Path, change: dict | None) -> None:
    """It is too small for the training, or without objects where those are left out."""
    file = coco / 'annotations/instances_train2017.json'
    content = json.loads(file.read_text())
    image = content['images'][0]
    image.update(change or {})
    if change is None:
        content['annotations'] = [
            box for box in content['annotations'] if box['image_id'] != image['id']
        ]
    file.write_text(json.dumps(content))
    (coco / 'train2017' / image['file_name']).unlink()
    cfg = load_config(RETINANET, data_root=str(coco))
    cfg.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=True, min_size=32)
    prepare_data(cfg, ['train'])
    cfg.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=False)
    with pytest.raises(InputError, match=f'lacks {image["file_name"]}'):
        prepare_data(cfg, ['train'])


@DATASETS.register_module()
class OwnDatasetOfTheTest(torch.utils.data.Dataset):
    """Takes what mmengine's do not."""

    def __init__(self, data_prefix: str, ann_file: list[str]) -> None: ...


def test_a_data_set_of_another_kind_takes_what_it_likes() -> None:
    node = dict(type='OwnDatasetOfTheTest', data_prefix='images/', ann_file=['a.txt', 'b.txt'])
    prepare_data(Config(dict(train_dataloader=dict(dataset=node))), ['train'])
    with pytest.raises(InputError, match=r'data_prefix=.* must be a dict'):
        prepare_data(
            Config(dict(train_dataloader=dict(dataset={**node, 'type': 'CocoDataset'}))), ['train']
        )


def test_an_image_outside_of_every_folder_is_named(coco: Path, tmp_path: Path) -> None:
    file = coco / 'annotations/instances_val2017.json'
    content = json.loads(file.read_text())
    elsewhere = tmp_path / 'elsewhere/gone.jpg'
    for image in content['images']:
        image['file_name'] = str(elsewhere)
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf'{re.escape(str(elsewhere))} .*PROBLEM: missing'):
        check(coco)


def test_an_evaluator_that_was_forgotten_is_named(coco: Path) -> None:
    cfg = load_config(RETINANET, data_root=str(coco))
    cfg.val_evaluator.ann_file = 'data/coco/annotations/of_others.json'
    own = coco / 'annotations/instances_val2017.json'
    with pytest.raises(
        InputError,
        match=rf"of_others\.json .*missing; the data set's own is {own}, which val_evaluator\.ann",
    ):
        prepare_data(cfg, ['train', 'val'])


def test_no_folder_of_absent_data_is_called_found(tmp_path: Path) -> None:
    dataset = dict(
        type='CityscapesDataset',
        data_root=str(tmp_path / 'cityscapes'),
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=[dict(type='LoadAnnotations')],
    )
    cfg = Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=dataset)))
    with pytest.raises(InputError) as error:
        prepare_data(cfg, ['train'])
    told = str(error.value)
    assert re.search(r'leftImg8bit/train +train img +PROBLEM: missing', told)
    assert re.search(r'gtFine/train +train seg_map +missing, too', told)
    assert 'found' not in told
