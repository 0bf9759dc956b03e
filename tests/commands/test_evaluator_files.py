from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmrest.commands import prepare_data, require_usable_data
from mmrest.datasets import CLASSES
from mmrest.errors import InputError


@pytest.fixture
def root(shapes_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shapes_root, tmp_path / 'own'))


def check(root: Path, evaluator: Any, split: str = 'val', **more: Any) -> list[str]:
    """Its warnings."""
    dataset = dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        metainfo=dict(classes=CLASSES),
        pipeline=[],
        **more,
    )
    loader = dict(dataset=dataset, num_workers=0)
    cfg = {f'{split}_dataloader': loader, f'{split}_evaluator': evaluator}
    return require_usable_data(Config(dict(default_scope='mmdet', **cfg)), [split])


def changed(root: Path, name: str, **parts: list[dict]) -> str:
    """Another file with the annotations of the validation, and other parts."""
    content = json.loads((root / 'annotations/instances_val2017.json').read_text())
    (root / name).write_text(json.dumps({**content, **parts}))
    return str(root / name)


def of(file: str | None, **options: Any) -> dict[str, Any]:
    return dict(type='CocoMetric', metric='bbox', ann_file=file, **options)


def test_an_evaluator_of_the_same_data_passes(root: Path) -> None:
    own = str(root / 'annotations/instances_val2017.json')
    for evaluator in (of(own), of(None), of(changed(root, 'copy.json')), [of(own), of(own)], None):
        check(root, evaluator)
    check(root, dict(type='CocoPanopticMetric', ann_file=changed(root, 'other.json', images=[])))


def test_categories_that_an_evaluator_lacks_are_named(root: Path) -> None:
    kinds = [dict(id=1, name='person'), dict(id=2, name=CLASSES[0])]
    file = changed(root, 'coco.json', categories=kinds)
    said = rf"test_evaluator: CocoMetric: ann_file='.*coco\.json' has no category {CLASSES[3]}, "
    for evaluator in (of(file), [of(None), of(file)]):
        with pytest.raises(InputError, match=said):
            check(root, evaluator, 'test')


def test_images_that_an_evaluator_lacks_are_named(root: Path) -> None:
    images = json.loads((root / 'annotations/instances_val2017.json').read_text())['images']
    file = changed(root, 'fewer.json', images=images[1:])
    with pytest.raises(InputError, match=rf'has no image {images[0]["file_name"]} \(id .*, which'):
        check(root, of(file))
    renamed = [dict(images[0], file_name='another.jpg'), *images[1:]]
    (told,) = check(root, of(changed(root, 'renamed.json', images=renamed)))  # ids alone count
    assert f'has no image {images[0]["file_name"]} (id ' in told
    assert 'there another.jpg' in told
    assert not check(root, of(file), indices=[1, 2])  # the image is not tested
    elsewhere = [dict(image, file_name=f'val/{image["file_name"]}') for image in images]
    assert not check(root, of(changed(root, 'elsewhere.json', images=elsewhere)))
    assert not check(root, of(changed(root, 'more.json', images=[*images, dict(id=10**6)])))


def test_a_config_of_other_data_needs_no_built_in_data(root: Path, tmp_path: Path) -> None:
    """Who trains on data of their own may forget ``built_in_data = None``."""
    dataset = dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        pipeline=[],
    )
    built_in = dict(type='shapes', root=str(tmp_path / 'shapes'), num_train=2, num_val=1)
    cfg = Config(
        dict(
            default_scope='mmdet',
            built_in_data=built_in,
            val_dataloader=dict(dataset=dataset, num_workers=0),
        )
    )
    prepare_data(cfg, ['val'])
    assert not (tmp_path / 'shapes').exists()
    cfg.val_dataloader.dataset.data_root = built_in['root']
    prepare_data(cfg, ['val'])
    assert (tmp_path / 'shapes').is_dir()
