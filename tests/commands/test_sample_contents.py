"""What does not fit together in a data set's files is told before a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from PIL import Image

from mmrest.commands import require_usable_data
from mmrest.commands.sample_contents import _sizes_as_loaded
from mmrest.errors import InputError

LOADING = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]


def warnings_of(scope: str, node: dict[str, Any]) -> str:
    cfg = Config(dict(default_scope=scope, test_dataloader=dict(dataset=node)))
    return '\n'.join(require_usable_data(cfg, ['test']))


def save(path: Path, size: tuple[int, int], orientation: int | None = None) -> None:
    """A picture of width and height ``size``, perhaps with an EXIF orientation."""
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.new('RGB', size, (200, 30, 30)).save(path, exif=exif)


@pytest.fixture
def detection(tmp_path: Path) -> dict[str, Any]:
    """Two images of 40x30 and a box in each."""
    images, boxes = [], []
    for number in (1, 2):
        save(tmp_path / f'{number}.jpg', (40, 30))
        images.append(dict(id=number, file_name=f'{number}.jpg', width=40, height=30))
        box = dict(id=number, image_id=number, category_id=1, bbox=[2, 3, 10, 12], area=120)
        boxes.append(dict(box, iscrowd=0))
    content = dict(images=images, annotations=boxes, categories=[dict(id=1, name='a')])
    (tmp_path / 'a.json').write_text(json.dumps(content))
    return dict(
        type='CocoDataset',
        data_root=str(tmp_path),
        ann_file='a.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=('a',)),
        pipeline=LOADING,
    )


def test_lists_of_annotations_within_another_format_are_no_boxes(detection: dict[str, Any]) -> None:
    entries = [
        dict(img_path=f'{i}.jpg', height=30, width=40, annotations=[], instances=[]) for i in (1, 2)
    ]
    file = Path(detection['data_root'], 'a.json')
    file.write_text(json.dumps(dict(metainfo=dict(classes=['a']), data_list=entries)))
    node = dict(detection, type='BaseDetDataset', filter_cfg=dict(filter_empty_gt=True))
    assert warnings_of('mmdet', node) == ''


def change_box(node: dict[str, Any], **values: Any) -> None:
    file = Path(node['data_root'], 'a.json')
    content = json.loads(file.read_text())
    content['annotations'][1].update(values)
    file.write_text(json.dumps(content))


def test_sound_data_raise_no_doubt(detection: dict[str, Any]) -> None:
    assert warnings_of('mmdet', detection) == ''
    change_box(detection, bbox=[-5, 20, 50, 50])  # partly outside: mmdet takes it
    assert warnings_of('mmdet', detection) == ''


@pytest.mark.parametrize(
    'values',
    [
        dict(bbox=[40, 0, 10, 10]),
        dict(bbox=[0, 30, 10, 10]),
        dict(bbox=[-20, 0, 20, 10]),
        dict(bbox=[0, -10, 20, 5]),
        dict(bbox=[5, 5, 0, 10]),
        dict(bbox=[5, 5, 10, 0.5]),
        dict(bbox=[5, 5, -3, 10]),
        dict(area=0),
    ],
    ids=str,
)
def test_boxes_that_mmdet_leaves_out_are_told(
    values: dict[str, Any], detection: dict[str, Any]
) -> None:
    from mmdet.datasets import CocoDataset

    change_box(detection, **values)
    kept = CocoDataset(**{k: v for k, v in detection.items() if k not in ('type', 'pipeline')})
    assert [len(kept.get_data_info(i)['instances']) for i in range(2)] == [1, 0]
    said = warnings_of('mmdet', detection)
    assert '1 of its first 2 boxes lie outside their image or have no area' in said
    assert '(annotation 2 of image 2)' in said


@pytest.mark.parametrize('color_type', ['color', 'color_ignore_orientation', 'grayscale'])
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_sizes_are_those_that_mmcv_loads(
    orientation: int, backend: str, color_type: str, tmp_path: Path
) -> None:
    save(tmp_path / 'a.jpg', (40, 30), orientation)
    options = dict(color_type=color_type, imdecode_backend=backend)
    info = dict(img_path=str(tmp_path / 'a.jpg'))
    loaded = LoadImageFromFile(**options)(dict(info))['img']
    ((width, height, _),) = _sizes_as_loaded([info], options).values()
    assert loaded.shape[:2] == (height, width)


def test_a_turned_image_is_told_with_the_option(detection: dict[str, Any]) -> None:
    root = Path(detection['data_root'])
    save(root / '2.jpg', (40, 30), orientation=6)
    said = warnings_of('mmdet', detection)
    assert '2.jpg (30x40, turned by its EXIF data; annotated 40x30)' in said
    assert "color_type='color_ignore_orientation'" in said
    assert '1.jpg' not in said
    unturned = dict(type='LoadImageFromFile', color_type='color_ignore_orientation')
    assert warnings_of('mmdet', {**detection, 'pipeline': [unturned]}) == ''
    save(root / '2.jpg', (20, 15))
    said = warnings_of('mmdet', detection)
    assert '2.jpg (20x15; annotated 40x30)' in said
    assert 'EXIF' not in said


@pytest.fixture
def segmentation(tmp_path: Path) -> dict[str, Any]:
    """Two images of 8x6 with labels 0 and 1."""
    for number in (1, 2):
        save(tmp_path / f'{number}.jpg', (8, 6))
        label_map(tmp_path / f'{number}.png', [0, 1])
    return dict(
        type='BaseSegDataset',
        data_root=str(tmp_path),
        data_prefix=dict(img_path='', seg_map_path=''),
        metainfo=dict(classes=('a', 'b')),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )


def label_map(path: Path, labels: list[int], size: tuple[int, int] = (8, 6)) -> None:
    values = np.resize(np.array(labels, np.uint8), size[::-1])
    Image.fromarray(values).save(path)


def test_sound_label_maps_raise_no_doubt(segmentation: dict[str, Any]) -> None:
    assert warnings_of('mmseg', segmentation) == ''
    label_map(Path(segmentation['data_root'], '2.png'), [0, 1, 255])
    assert warnings_of('mmseg', segmentation) == ''


@pytest.mark.parametrize(
    ('labels', 'options', 'said'),
    [
        ([0, 2], {}, '2.png (2)'),
        ([0, 1, 7, 9], {}, '2.png (7, 9)'),
        ([0, 1, 3], dict(reduce_zero_label=True), '2.png (2)'),
        ([0, 1, 5], dict(ignore_index=5), ''),
        ([0, 1, 2], dict(metainfo=dict(classes=('a', 'b', 'c'))), ''),
    ],
)
def test_labels_of_no_class_are_told(
    labels: list[int], options: dict[str, Any], said: str, segmentation: dict[str, Any]
) -> None:
    label_map(Path(segmentation['data_root'], '2.png'), labels)
    text = warnings_of('mmseg', {**segmentation, **options})
    assert ('labels of no class' in text) == bool(said)
    assert said in text
    assert '1.png' not in text


def test_a_mask_of_0_and_255_is_told(segmentation: dict[str, Any]) -> None:
    for number in (1, 2):
        label_map(Path(segmentation['data_root'], f'{number}.png'), [0, 255])
    assert 'must be written as 0 and 1' in warnings_of('mmseg', segmentation)
    reduced = dict(segmentation, reduce_zero_label=True)  # both are ignored by intention
    assert 'must be written' not in warnings_of('mmseg', reduced)


@pytest.mark.parametrize(
    ('labels', 'reduced', 'is_told'),
    [
        ([0, 1], True, True),  # 0 is a class, and 2 should be b
        ([0, 1, 2], True, False),
        ([1], True, False),  # nothing is left out
        ([0, 1], False, False),
    ],
)
def test_a_class_that_is_taken_for_none_is_told(
    labels: list[int], reduced: bool, is_told: bool, segmentation: dict[str, Any]
) -> None:
    for number in (1, 2):
        label_map(Path(segmentation['data_root'], f'{number}.png'), labels)
    text = warnings_of('mmseg', {**segmentation, 'reduce_zero_label': reduced})
    said = '2, which is then b, is in none of the first 2 label maps'
    assert (said in text) == is_told


def test_a_class_that_is_rare_in_known_data_is_not_taken_for_a_mistake(
    segmentation: dict[str, Any],
) -> None:
    for number in (1, 2):
        label_map(Path(segmentation['data_root'], f'{number}.png'), [0, 1, 2, 3, 4, 5])
    known = dict(segmentation, type='PotsdamDataset', reduce_zero_label=True)
    known.update(metainfo=None, img_suffix='.jpg', seg_map_suffix='.png')
    assert 'is in none of' not in warnings_of('mmseg', known)
    own = dict(known, type='BaseSegDataset', metainfo=dict(classes=tuple('abcdef')))
    assert 'is in none of' in warnings_of('mmseg', own)


def test_label_maps_that_are_not_their_images_are_told(segmentation: dict[str, Any]) -> None:
    root = Path(segmentation['data_root'])
    label_map(root / '2.png', [0, 1], (6, 8))
    assert '2.png (6x8; image 8x6)' in warnings_of('mmseg', segmentation)
    save(root / '2.png', (8, 6))
    assert 'in colour: ' in warnings_of('mmseg', segmentation)


def edited(detection: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    file = Path(detection['data_root'], 'a.json')
    content = json.loads(file.read_text())
    file.write_text(json.dumps(change(content) or content))
    return detection


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (
            lambda c: c['annotations'][1].pop('area') and None,
            r'a\.json: annotation 2 has no area; where there are no masks it is width times height',
        ),
        (lambda c: c['annotations'][0].pop('bbox') and None, 'annotation 1 has no bbox'),
        (lambda c: c['images'][1].pop('height') and None, 'image 2 has no height'),
        (lambda c: c['images'][1].pop('file_name') and None, 'image 2 has no file_name'),
        (
            lambda c: c['annotations'][0].update(bbox=[1, 2, 3]),
            r'annotation 1 has the box \[1, 2, 3\]; COCO writes four numbers',
        ),
        (lambda c: c['annotations'][0].update(bbox=['1', '2', '3', '4']), 'annotation 1 has the'),
        (lambda c: c['annotations'][0].update(bbox=[1, 2, 10**30, 4]), 'annotation 1 has the box'),
        (lambda c: c['annotations'][0].update(bbox=None), 'annotation 1 has the box None'),
        (
            lambda c: [box.update(ignore=1) for box in c['annotations']] and None,
            r'a\.json: all 2 boxes are marked to be ignored',
        ),
        (lambda c: c['annotations'], r'a\.json is a list; COCO annotations are an object'),
        (
            lambda c: c['annotations'][1].pop('id') and None,
            r'an annotation \(of image 2\) has no id',
        ),
        (lambda c: c['images'][1].pop('id') and None, r'an image \(2\.jpg\) has no id'),
        (
            lambda c: c['annotations'][1].update(area=None),
            'annotation 2 has area=None, which is no number; where there are no masks it is width',
        ),
        (lambda c: c['annotations'][1].update(area='400'), "annotation 2 has area='400', which"),
        (lambda c: c['images'][0].update(width=None), 'image 1 has width=None, which is no number'),
        (
            lambda c: c['annotations'][0].update(image_id=[1]),
            r'1 has image_id=\[1\], which',
        ),
        (lambda c: c['annotations'][0].update(category_id={}), '1 has category_id={}, which is no'),
        (
            lambda c: c['annotations'][1].update(id=1),
            r'a\.json: several annotations have the id 1$',
        ),
        (lambda c: c.pop('categories') and None, r'a\.json has no categories, which are a list'),
        (lambda c: c['categories'].clear(), r'a\.json has no category in its categories, so'),
        (
            lambda c: [box.update(image_id=9) for box in c['annotations']] and None,
            '2 of its first 2 boxes are of an image that the file does not have',
        ),
    ],
)
def test_what_coco_annotations_lack_is_named(
    detection: dict[str, Any], change: Callable, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        warnings_of('mmdet', edited(detection, change))


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (lambda c: c['images'][1].update(id=1), 'images have the same id, so that one alone is'),
        (
            lambda c: c['annotations'][0].update(category_id=7),
            '1 of its first 2 boxes are of no category, and are left out: annotation 1 of cat',
        ),
        (
            lambda c: [box.update(iscrowd=1) for box in c['annotations']] and None,
            'all boxes are of crowds (iscrowd is not 0)',
        ),
        (
            lambda c: c['annotations'][1].update(image_id='2'),
            '1 of its first 2 boxes are of an image that the file does not have, and are left out: '
            "annotation 2 of image '2'",
        ),
        (
            lambda c: c['annotations'].extend(
                {**c['annotations'][0], 'id': number, 'bbox': [20, 10, 38, 28]}
                for number in range(3, 8)
            ),
            '5 of 7 boxes end outside of their image: [20, 10, 38, 28] (annotation 3)',
        ),
    ],
)
def test_annotations_that_are_hardly_meant_so_are_told(
    detection: dict[str, Any], change: Callable, said: str
) -> None:
    assert not warnings_of('mmdet', detection)
    assert said in warnings_of('mmdet', edited(detection, change))


def masks(node: dict[str, Any]) -> dict[str, Any]:
    loading = [LOADING[0], dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
    return {**node, 'pipeline': loading}


SQUARE = [[2, 3, 12, 3, 12, 15]]


@pytest.mark.parametrize('without', [None, [], 'no key'])
def test_a_box_without_a_mask_is_named_where_masks_are_loaded(
    detection: dict[str, Any], without: Any
) -> None:
    def change(content: dict[str, Any]) -> None:
        first, second = content['annotations']
        first['segmentation'] = SQUARE
        if without != 'no key':
            second['segmentation'] = without

    assert not warnings_of('mmdet', edited(detection, change))
    with pytest.raises(InputError, match=r'a\.json: annotation 2 has no segmentation'):
        warnings_of('mmdet', masks(detection))


def test_a_mask_that_cannot_be_drawn_is_named_where_masks_are_loaded(
    detection: dict[str, Any],
) -> None:
    def change(content: dict[str, Any]) -> None:
        first, second = content['annotations']
        first['segmentation'], second['segmentation'] = SQUARE, SQUARE[0]

    assert not warnings_of('mmdet', edited(detection, change))
    with pytest.raises(InputError, match=r'a\.json: annotation 2 has a segmentation that is one'):
        warnings_of('mmdet', masks(detection))


@pytest.mark.parametrize('change', [dict(category_id=2), dict(ignore=True), dict(area=0)])
def test_a_box_that_is_not_used_needs_no_mask(detection: dict[str, Any], change: dict) -> None:
    def edit(content: dict[str, Any]) -> None:
        content['categories'].append(dict(id=2, name='b'))
        content['annotations'][0]['segmentation'] = SQUARE
        content['annotations'][1].update(change)

    warnings_of('mmdet', masks(edited(detection, edit)))


@pytest.mark.parametrize('change', [dict(bbox=[0.1, 0.1, 0.4, 0.5]), dict(area=0)])
def test_boxes_none_of_which_is_used_are_no_training_data(
    detection: dict[str, Any], change: dict
) -> None:
    edited(detection, lambda c: [box.update(change) for box in c['annotations']] and None)
    with pytest.raises(InputError, match=r'all 2 boxes lie outside .*none is used; the first is'):
        warnings_of('mmdet', detection)
    assert warnings_of('mmdet', {**detection, 'test_mode': True})


def test_other_formats_need_not_have_what_coco_has(detection: dict[str, Any]) -> None:
    edited(detection, lambda c: c['annotations'][1].pop('area') and None)
    assert not warnings_of('mmdet', {**detection, 'type': 'LVISV1Dataset'})


@pytest.mark.parametrize('absent', ['area', 'bbox', 'id', 'segmentation'])
def test_boxes_of_images_that_the_file_lacks_may_lack_anything(
    detection: dict[str, Any], absent: str
) -> None:
    """As where somebody took out images alone; mmdet asks for the boxes of each image."""

    def change(content: dict[str, Any]) -> None:
        for box in content['annotations']:
            box['segmentation'] = SQUARE
        other = {**content['annotations'][0], 'id': 9, 'image_id': 99}
        del other[absent]
        content['annotations'].insert(0, other)

    said = warnings_of('mmdet', masks(edited(detection, change)))
    assert '1 of its first 3 boxes are of an image that the file does not have' in said
    assert len(said.splitlines()) == 1


def test_a_test_needs_no_category(detection: dict[str, Any]) -> None:
    edited(detection, lambda c: c.update(categories=[], annotations=[]))
    assert not warnings_of('mmdet', {**detection, 'test_mode': True})


def test_what_mmdet_ignores_may_lack_anything(detection: dict[str, Any]) -> None:
    ignored = dict(id=2, image_id=2, category_id=9, ignore=True)
    edited(detection, lambda c: c['annotations'].__setitem__(1, ignored))
    assert not warnings_of('mmdet', detection)
