"""What the data sets of mmdet and mmseg can read, the check of the data accepts.

Each class of the installed versions reads a small data set in its own layout; what it cannot read
for want of a file is refused.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import mmdet.datasets
import mmseg.datasets
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope

from mmrest.commands import prepare_data, require_usable_data
from mmrest.errors import InputError

Layout = dict[str, Any]


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in ('.npy', '.gz'):
        np.save(path, np.zeros((8, 8, 3)))
    else:
        assert cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))


def check(scope: str, layout: Layout) -> None:
    cfg = Config(dict(default_scope=scope, train_dataloader=dict(dataset=layout)))
    prepare_data(cfg, ['train'])
    require_usable_data(cfg, ['train'])


def build(scope: str, layout: Layout) -> BaseDataset:
    with DefaultScope.overwrite_default_scope(scope):
        return DATASETS.build({**layout, 'pipeline': []})


def classes_of(package: Any, base: type) -> list[str]:
    found = [getattr(package, name) for name in package.__all__]
    return sorted({k.__name__ for k in found if isinstance(k, type) and issubclass(k, base)})


COCO_LIKE = [
    name
    for name in classes_of(mmdet.datasets, mmdet.datasets.CocoDataset)
    # mmdet reads it by a package that it does not require
    if not name.startswith('LVIS') or importlib.util.find_spec('lvis')
]
XML_LIKE = classes_of(mmdet.datasets, mmdet.datasets.XMLDataset)
# these need packages or media of their own; mmseg's own base classes for others
OTHER_MEDIA = {'DSDLSegDataset', 'DecathlonDataset', 'OneDLDataset', 'BaseCDDataset'}
SEG_LIKE = [
    name
    for name in classes_of(mmseg.datasets, mmseg.datasets.BaseSegDataset)
    if name not in OTHER_MEDIA
]


def coco_like(kind: str, root: Path, folder: str = '', escape: Callable = str) -> Layout:
    """Two images in ``folder`` below the images' folder, their names written by ``escape``."""
    kwargs = {}
    names = list(getattr(mmdet.datasets, kind).METAINFO.get('classes') or ('a', 'b'))
    if kind == 'V3DetDataset':
        (root / 'names.txt').write_text('a\nb\n')
        kwargs = dict(label_file='names.txt')
    images = []
    for i in (1, 2):
        name = f'{folder}{i:012d}.jpg'
        write_image(root / 'images' / name)
        url = f'http://images.cocodataset.org/{name}'
        images.append(dict(id=i, file_name=name, coco_url=url, height=8, width=8))
        for image in images:
            image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    box = dict(bbox=[1, 1, 4, 4], area=16, iscrowd=0, segmentation=[[1, 1, 5, 1, 5, 5]])
    categories = [
        dict(id=i + 1, name=name, isthing=1, frequency='f', synset=name)
        for i, name in enumerate(names)
    ]
    annotations = [dict(id=i, image_id=i, category_id=1, **box) for i in (1, 2)]
    if 'Panoptic' in kind:
        segment = dict(id=1, category_id=1, bbox=[1, 1, 4, 4], area=16, iscrowd=0)
        annotations = [
            dict(image_id=i, file_name=f'{i:012d}.png', segments_info=[segment]) for i in (1, 2)
        ]
        kwargs = dict(data_prefix=dict(img='images/', seg='maps/'))
        for i in (1, 2):
            write_image(root / 'maps' / f'{folder}{i:012d}.png')
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / 'ann.json').write_text(escape(json.dumps(content)))
    layout = dict(
        type=kind, data_root=str(root), ann_file='ann.json', data_prefix=dict(img='images/')
    )
    return {**layout, **kwargs}


@pytest.mark.parametrize('folder', ['', 'patch0/', 'ordner ü/图片', 'a/b/'])
def test_coco_with_images_anywhere(folder: str, tmp_path: Path) -> None:
    layout = coco_like('CocoDataset', tmp_path, folder)
    assert len(build('mmdet', layout)) == 2
    check('mmdet', layout)
    next((tmp_path / 'images').rglob('*1.jpg')).unlink()
    with pytest.raises(InputError, match=r'PROBLEM: lacks .*000000000001\.jpg'):
        check('mmdet', layout)


def test_slashes_that_json_escapes(tmp_path: Path) -> None:
    layout = coco_like('CocoDataset', tmp_path, 'patch0/', lambda text: text.replace('/', '\\/'))
    assert '\\/' in (tmp_path / 'ann.json').read_text()
    check('mmdet', layout)


@pytest.mark.parametrize('kind', COCO_LIKE)
def test_every_class_that_is_like_coco(kind: str, tmp_path: Path) -> None:
    layout = coco_like(kind, tmp_path)
    try:
        build('mmdet', layout)
    except Exception as error:
        pytest.fail(f'the layout of this test is not that of {kind}: {error!r}')
    check('mmdet', layout)
    (tmp_path / 'ann.json').unlink()
    with pytest.raises(InputError, match='PROBLEM: missing'):
        check('mmdet', layout)


@pytest.mark.parametrize('kind', XML_LIKE)
def test_every_class_that_reads_xml(kind: str, tmp_path: Path) -> None:
    root = tmp_path / 'VOC2007'
    images = '0--Parade' if kind == 'WIDERFaceDataset' else 'JPEGImages'
    names = getattr(mmdet.datasets, kind).METAINFO.get('classes') or ('a', 'b')
    write_image(root / images / 'one.jpg')
    (root / 'Annotations').mkdir()
    (root / 'Annotations/one.xml').write_text(
        '<annotation><folder>0--Parade</folder><size><width>8</width><height>8</height></size>'
        f'<object><name>{names[0]}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax>'
        '<ymax>5</ymax></bndbox></object></annotation>'
    )
    (root / 'list.txt').write_text('one\n')
    layout = dict(
        type=kind,
        data_root=str(tmp_path),
        ann_file='VOC2007/list.txt',
        data_prefix=dict(sub_data_root='VOC2007/', img='VOC2007/'),
        metainfo=dict(classes=tuple(names)),
    )
    if kind == 'VOCDataset':
        layout.pop('metainfo')
    build('mmdet', layout)
    check('mmdet', layout)
    (root / 'Annotations/one.xml').unlink()
    with pytest.raises(InputError, match='PROBLEM'):
        check('mmdet', layout)


@pytest.mark.parametrize('by_list', [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize('kind', SEG_LIKE)
def test_every_class_of_mmseg(kind: str, by_list: bool, tmp_path: Path) -> None:
    layout = dict(
        type=kind,
        data_root=str(tmp_path),
        data_prefix=dict(img_path='images', seg_map_path='maps'),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )
    if not getattr(mmseg.datasets, kind).METAINFO.get('classes'):
        layout['metainfo'] = dict(classes=('a', 'b'))
    if kind == 'NYUDataset':
        layout['data_prefix'] = dict(img_path='images', depth_map_path='maps')
    for folder in ('images', 'maps'):
        (tmp_path / folder).mkdir()
    needs_list = 'ann_file' in _required(kind)
    if by_list or needs_list:
        layout['ann_file'] = 'list.txt'
        (tmp_path / 'list.txt').write_text('city/bath_0001\n')
    empty = {**layout, 'lazy_init': True}
    dataset = build('mmseg', empty)
    suffix = getattr(dataset, 'depth_map_suffix', dataset.seg_map_suffix)
    write_image(tmp_path / f'images/city/bath_0001{dataset.img_suffix}')
    write_image(seg_map := tmp_path / f'maps/city/bath_0001{suffix}')
    assert len(build('mmseg', layout)) == 1
    check('mmseg', layout)
    seg_map.unlink()
    with pytest.raises(InputError, match='PROBLEM: lacks city/bath_0001') as error:
        check('mmseg', layout)
    assert '_suffix' not in str(error.value)
    write_image(tmp_path / 'maps/city/bath_00010.png')  # of another image
    write_image(tmp_path / 'maps/city/bath_0001_own.PNG')
    where = r"where \w+_map_suffix='_own\.PNG' would find bath_0001_own\.PNG"
    with pytest.raises(InputError, match=where):
        check('mmseg', layout)
    # who reads no annotations needs none
    check('mmseg', {**layout, 'pipeline': layout['pipeline'][:1]})


def _required(kind: str) -> set[str]:
    import inspect

    parameters = inspect.signature(getattr(mmseg.datasets, kind).__init__).parameters
    return {name for name, p in parameters.items() if p.default is p.empty}


def test_openmmlabs_own_annotations(tmp_path: Path) -> None:
    write_image(tmp_path / 'images/one.jpg')
    content = dict(metainfo=dict(classes=['a']), data_list=[dict(img_path='one.jpg')])
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    layout = dict(
        type=BaseDataset,
        data_root=str(tmp_path),
        ann_file='ann.json',
        data_prefix=dict(img_path='images'),
    )
    check('mmdet', layout)
    (tmp_path / 'images/one.jpg').unlink()
    with pytest.raises(InputError, match=r'lacks one\.jpg'):
        check('mmdet', layout)


@pytest.mark.parametrize(
    ('kind', 'file', 'content'),
    [
        ('OpenImagesDataset', 'boxes.csv', 'ImageID,Source\n'),
        ('CrowdHumanDataset', 'annotation_train.odgt', '{"ID": "1", "gtboxes": []}\n'),
        ('ODVGDataset', 'train.jsonl', '{"filename": "1.jpg"}\n'),
        ('RefCocoDataset', 'instances.json', '{"images": [], "annotations": []}'),
        ('YouTubeVISDataset', 'train.json', '{"videos": [], "annotations": []}'),
        ('ReIDDataset', 'train.txt', 'a/1.jpg 0\n'),
        ('DODDataset', 'train.json', '{"images": []}'),
        ('MOTChallengeDataset', 'half.json', '{"videos": []}'),
        ('Flickr30kDataset', 'final.json', '{"images": []}'),
    ],
)
def test_what_the_check_cannot_follow_passes(
    kind: str, file: str, content: str, tmp_path: Path
) -> None:
    (tmp_path / 'images').mkdir()
    write_image(tmp_path / 'images/1.jpg')
    (tmp_path / file).write_text(content)
    layout = dict(
        type=kind, data_root=str(tmp_path), ann_file=file, data_prefix=dict(img='images/')
    )
    cfg = Config(dict(default_scope='mmdet', train_dataloader=dict(dataset=layout)))
    prepare_data(cfg, ['train'])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(data_prefix='images/'), r"data_prefix='images/' must be a dict.*dict\(img='images/'"),
        (dict(ann_file=['ann.json']), 'must be one file; for several write a ConcatDataset'),
        (dict(data_prefix=dict(img='')), r'PROBLEM: lacks 000000000001\.jpg'),
    ],
)
def test_mistakes_are_named(change: dict, message: str, tmp_path: Path) -> None:
    layout = {**coco_like('CocoDataset', tmp_path), **change}
    with pytest.raises(InputError, match=message):
        check('mmdet', layout)


def test_annotations_that_are_cut_short_are_named(tmp_path: Path) -> None:
    layout = coco_like('CocoDataset', tmp_path)
    file = tmp_path / 'ann.json'
    for end in ('', '\n', ' ' * 20):
        file.write_text(file.read_text().rstrip() + end)
        check('mmdet', layout)
    file.write_text(file.read_text()[:-200])
    with pytest.raises(InputError, match=r'ann\.json .*PROBLEM: cut short'):
        check('mmdet', layout)


def test_an_empty_data_set_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / 'images/one.png')
    layout = dict(
        type='ADE20KDataset', data_root=str(tmp_path), data_prefix=dict(img_path='images')
    )
    with pytest.raises(
        InputError,
        match=r"finds no image in .*images \(\*\.jpg\), where img_suffix='\.png' would find",
    ):
        check('mmseg', layout)


@pytest.mark.parametrize('option', ['persistent_workers', 'prefetch_factor', 'timeout'])
def test_options_that_need_workers(option: str, tmp_path: Path) -> None:
    loader = {'dataset': coco_like('CocoDataset', tmp_path), 'num_workers': 0, option: 2}
    cfg = Config(dict(default_scope='mmdet', train_dataloader=loader))
    with pytest.raises(InputError, match=f'{option}=2 needs num_workers of 1 or more'):
        require_usable_data(cfg, ['train'])
