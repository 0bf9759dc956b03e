from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmrest.commands import require_usable_data
from mmrest.datasets import CLASSES
from mmrest.errors import InputError


def dataset(root: Path, order: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """The shapes with their categories in another order, or under other names."""
    file = root / 'annotations/instances_val2017.json'
    content = json.loads(file.read_text())
    if order is not None:
        known = {category['name']: category for category in content['categories']}
        content['categories'] = [
            known.get(name) or dict(id=50 + i, name=name) for i, name in enumerate(order)
        ]
    renamed = root / 'annotations/renamed.json'
    renamed.write_text(json.dumps(content))
    options = dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='annotations/renamed.json',
        data_prefix=dict(img='val2017/'),
        metainfo=dict(classes=CLASSES),
    )
    return {**options, **more}


def check(node: dict[str, Any]) -> str:
    cfg = Config(dict(default_scope='mmdet', test_dataloader=dict(dataset=node)))
    return '\n'.join(require_usable_data(cfg, ['test']))


@pytest.fixture
def root(shapes_root: Path, tmp_path: Path) -> Path:
    (tmp_path / 'annotations').mkdir()
    name = 'annotations/instances_val2017.json'
    (tmp_path / name).write_text((shapes_root / name).read_text())
    (tmp_path / 'val2017').symlink_to(shapes_root / 'val2017')
    return tmp_path


def test_names_that_agree_pass(root: Path) -> None:
    assert check(dataset(root)) == ''


@pytest.mark.parametrize('classes', [('ring',), ('disc', 'star'), ('triangle', 'bar')])
def test_some_of_the_classes_may_be_trained(classes: tuple[str, ...], root: Path) -> None:
    assert 'are left out' in check(dataset(root, metainfo=dict(classes=classes)))


@pytest.mark.parametrize(
    ('order', 'classes', 'messages'),
    [
        (
            list(reversed(CLASSES)),
            CLASSES,
            ["objects of 'star' would be called 'disc'", f'classes={tuple(reversed(CLASSES))!r}'],
        ),
        (None, ('ring', 'disc', 'triangle', 'bar', 'star'), ["'disc' would be called 'ring'"]),
        (None, ('star', 'disc'), ["objects of 'disc' would be called 'star'"]),
        (
            None,
            ('disk', *CLASSES[1:]),
            ["'ring' would be called 'disk'", 'disk is not in the annotations', f'{CLASSES!r}'],
        ),
        (
            None,
            (*CLASSES[:-1], 'stars'),
            ["'stars' is not in the annotations; did you mean 'star'?", '(5): disc'],
        ),
        (None, ('a', 'b', 'c', 'd', 'e'), ['none of its classes is in the annotations', 'ring']),
        (None, None, ['none of its classes is in the annotations', '(80): person']),
        (None, 'disc', ["the string 'disc'", "write metainfo=dict(classes=('disc',))"]),
    ],
)
def test_names_that_differ_are_errors(
    order: list[str] | None, classes: Any, messages: list[str], root: Path
) -> None:
    metainfo = {} if classes is None else dict(classes=classes)
    with pytest.raises(InputError) as error:
        check(dataset(root, order, metainfo=metainfo))
    for message in messages:
        assert message in str(error.value)


def test_a_class_without_objects_is_told(root: Path) -> None:
    text = check(dataset(root, list(CLASSES[:-1])))
    assert 'the annotations have no star' in text


def test_classes_in_a_file_pass(root: Path) -> None:
    (root / 'names.txt').write_text('\n'.join(CLASSES))
    check(dataset(root, metainfo=dict(classes=str(root / 'names.txt'))))


def voc(root: Path, names: list[str]) -> dict[str, Any]:
    (root / 'Annotations').mkdir()
    (root / 'JPEGImages').mkdir()
    objects = ''.join(
        f'<object><name>{name}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax>'
        '<ymax>5</ymax></bndbox></object>'
        for name in names
    )
    size = '<size><width>8</width><height>8</height></size>'
    (root / 'Annotations/one.xml').write_text(f'<annotation>{size}{objects}</annotation>')
    (root / 'list.txt').write_text('one\n')
    return dict(
        type='XMLDataset',
        data_root=str(root),
        ann_file='list.txt',
        data_prefix=dict(sub_data_root=''),
        metainfo=dict(classes=('cat', 'dog')),
    )


def test_names_in_xml(tmp_path: Path) -> None:
    for i, (names, message) in enumerate(
        [(['cat', 'dog'], ''), (['cat', 'cow'], 'objects of cow are left out'), (['cow'], None)]
    ):
        root = tmp_path / str(i)
        root.mkdir()
        if message is None:
            with pytest.raises(InputError, match='none of its classes is in the annotations'):
                check(voc(root, names))
        else:
            assert message in check(voc(root, names))


def test_another_word_is_no_misspelling(root: Path) -> None:
    """The file has minibus; that it has no bus is a warning, as of every absent class."""
    node = dataset(
        root, ['disc', 'ring', 'minibus'], metainfo=dict(classes=('disc', 'ring', 'bus'))
    )
    assert 'the annotations have no bus' in check(node)


def test_classes_of_later_files_are_not_missed(tmp_path: Path) -> None:
    for folder in ('Annotations', 'JPEGImages', 'sets'):
        (tmp_path / folder).mkdir()
    names = [f'{number:03}' for number in range(60)]
    (tmp_path / 'sets/all.txt').write_text('\n'.join(names))
    for number, name in enumerate(names):
        kind = 'sheep' if number == 59 else 'cow'
        (tmp_path / f'Annotations/{name}.xml').write_text(
            f'<annotation><size><width>9</width><height>9</height></size>'
            f'<object><name>{kind}</name></object></annotation>'
        )
        (tmp_path / f'JPEGImages/{name}.jpg').write_bytes(b'')
    node = dict(
        type='XMLDataset',
        data_root=str(tmp_path),
        ann_file='sets/all.txt',
        data_prefix=dict(sub_data_root=''),
        metainfo=dict(classes=('sheep',)),
    )
    assert 'none of its classes is in the first files' in check(node)
    (tmp_path / 'sets/all.txt').write_text('\n'.join(names[:40]))
    with pytest.raises(InputError, match='none of its classes is in the annotations'):
        check(node)
