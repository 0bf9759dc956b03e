from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from torch import nn

from mmrest.datasets import CLASSES
from mmrest.engine import require_usable_data
from mmrest.engine.class_names import require_enough_outputs
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
    check(dataset(root, metainfo=dict(classes=classes)))


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


class Head(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes


class Detector(nn.Module):
    def __init__(self, **heads: nn.Module) -> None:
        super().__init__()
        for name, head in heads.items():
            setattr(self, name, head)


META = dict(classes=CLASSES)


@pytest.mark.parametrize('name', ['bbox_head', 'mask_head', 'decode_head', 'panoptic_head'])
def test_every_head_needs_an_output_for_each_class(name: str) -> None:
    with pytest.raises(InputError, match=rf'model\.{name}\.num_classes=3; set num_classes=5'):
        require_enough_outputs(Detector(**{name: Head(3)}), META)
    assert require_enough_outputs(Detector(**{name: Head(5)}), META) == []
    (warning,) = require_enough_outputs(Detector(**{name: Head(80)}), META)
    assert f'fewer than model.{name}.num_classes=80' in warning
    with pytest.raises(InputError, match=r'num_classes=80; set num_classes=5'):
        require_enough_outputs(Detector(**{name: Head(80)}), META, exactly=True)


def test_every_stage_of_a_cascade_counts() -> None:
    cascade = Detector(roi_head=Detector(bbox_head=nn.ModuleList([Head(5), Head(4)])))
    with pytest.raises(InputError, match=r'model\.roi_head\.bbox_head\.1\.num_classes=4'):
        require_enough_outputs(cascade, META)


def test_heads_of_another_task_may_have_fewer() -> None:
    for name in ('rpn_head', 'auxiliary_head', 'semantic_head', 'backbone'):
        assert require_enough_outputs(Detector(**{name: Head(1)}), META) == []
    panoptic = {**META, 'thing_classes': CLASSES[:2]}
    assert require_enough_outputs(Detector(bbox_head=Head(2)), panoptic) == []
