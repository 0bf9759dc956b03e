"""Are COCO annotations as mmdet's ``CocoDataset`` asks for them?

Files that people make themselves often lack ``area`` or the images' sizes, and mmdet ends with a
``KeyError`` that names neither the file nor the annotation.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from numbers import Real
from typing import Any

from mmrest.commands.coco_masks import fault_of_mask, is_of_pixels
from mmrest.commands.dataset_sample import MOST_OBJECTS, DatasetSample
from mmrest.commands.json_parts import read_first
from mmrest.commands.sample_contents import is_unused
from mmrest.config_nodes import iterate_dicts, type_name
from mmrest.errors import list_some

_OF_IMAGES = 'id', 'file_name', 'height', 'width'
_OF_BOXES = 'id', 'image_id', 'category_id', 'bbox', 'area'
_NUMBERS = 'height', 'width', 'area'
_MANY = 5  # a few boxes end outside in many data sets, and are cut off
_MEANS = dict(area='; where there are no masks it is width times height of the box')


def why_unreadable(node: Mapping[str, Any], sample: DatasetSample) -> str | None:
    """What ``CocoDataset`` would fail at in the first images and boxes; None if nothing.

    Args:
        node: The config of a data set of any class.
        sample: Of that data set; its strays are told from its objects.
    """
    if not is_read_as_coco(sample.dataset):
        return None
    file = sample.dataset.ann_file
    if sample.is_list:
        return (
            f'{file} is a list; COCO annotations are an object of images, annotations, categories'
        )
    if fault := _fault_of_categories(node, file):
        return f'{file} {fault}'
    for image in sample.images or ():
        if fault := _fault_of(image, _OF_IMAGES):
            return f'{file}: {_named("image", image)} {fault}'
    _tell_strays_apart(sample)
    for thing in _read(sample):
        if fault := _fault_of(thing, _OF_BOXES):
            return f'{file}: {_named("annotation", thing)} {fault}'
    if shared := _shared(thing.get('id') for thing in sample.objects):
        return f'{file}: several annotations have the id {list_some(shared, most=5)}'
    if not node.get('test_mode') and _is_whole(sample) and not any(_with_area(sample)):
        if not sample.objects:
            return f'{file}: {_of_no_image(sample)}'
        if not _read(sample):
            return f'{file}: all {len(sample.objects)} boxes are marked to be ignored'
        return (
            f'{file}: all {len(sample.objects)} boxes lie outside their image or have no '
            f'area, so that none is used; the first is {sample.objects[0]["bbox"]}. COCO '
            'writes a box as [left, top, width, height], in pixels'
        )
    return _fault_of_masks(sample) if _loads_masks(node) else None


def _fault_of(entry: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    """What mmdet would fail at in an image's or a box's entry."""
    if absent := [key for key in keys if key not in entry]:
        return f'has no {list_some(absent)}{"".join(_MEANS.get(key, "") for key in absent)}'
    if 'bbox' in keys and not _is_box(entry['bbox']):
        return (
            f'has the box {entry["bbox"]}; COCO writes four numbers, [left, top, width, height], '
            'in pixels'
        )
    for key in keys:
        value = entry[key]
        if key in _NUMBERS and not isinstance(value, Real):
            return f'has {key}={value!r}, which is no number{_MEANS.get(key, "")}'
        if key.endswith('id') and isinstance(value, list | dict):
            return f'has {key}={value!r}, which is no id'
    return None


def _fault_of_categories(node: Mapping[str, Any], file: str) -> str | None:
    categories = read_first(file, 'categories', 1)
    if categories is None:
        return "has no categories, which are a list of dict(id=1, name='...')"
    if not categories and not node.get('test_mode'):
        return 'has no category in its categories, so that no box has a class'
    return None


def _tell_strays_apart(sample: DatasetSample) -> None:
    """A file may have boxes of no image, which mmdet does not ask for and may lack anything."""
    names = names_of_images(sample.dataset.ann_file)
    objects, sample.objects = sample.objects or (), []
    for thing in objects:
        number = thing.get('image_id')
        is_stray = not isinstance(number, list | dict) and number not in names
        (sample.strays if is_stray else sample.objects).append(thing)


def _shared(ids: Iterable[Any]) -> list[Any]:
    """Those that stand more than once."""
    return [number for number, times in Counter(ids).items() if times > 1]


def names_of_images(file: str) -> dict[Any, Any]:
    """Id -> file name of all images of a COCO file."""
    return _images_of(file, os.path.getmtime(file))


@lru_cache(maxsize=2)
def _images_of(file: str, changed: float) -> dict[Any, Any]:
    images = read_first(file, 'images', 2**24) or ()
    return {image.get('id'): image.get('file_name') for image in images}


def _loads_masks(node: Mapping[str, Any]) -> bool:
    steps = iterate_dicts(node.get('pipeline') or ())
    return any(step.get('with_mask') for step in steps if type_name(step) == 'LoadAnnotations')


def _fault_of_masks(sample: DatasetSample) -> str | None:
    """The first of the boxes that are used without a mask, or with none that can be drawn."""
    images = {image['id']: image for image in sample.images or ()}
    for thing in _used(sample):
        fault = (
            'has no segmentation, and the pipeline loads masks (LoadAnnotations, with_mask=True); '
            'take it out, or train a detector of boxes alone'
        )
        if mask := thing.get('segmentation'):
            fault = fault_of_mask(mask, images.get(thing['image_id'], {}))
        if fault:
            return f'{sample.dataset.ann_file}: {_named("annotation", thing)} {fault}'
    return None


def _is_whole(sample: DatasetSample) -> bool:
    """Whether the sample holds all boxes of the file, and there are some."""
    return 0 < len(sample.objects) + len(sample.strays) < MOST_OBJECTS


def _used(sample: DatasetSample) -> Iterator[dict[str, Any]]:
    """The boxes that mmdet does not leave out, as far as the first images tell."""
    classes = sample.dataset.metainfo.get('classes') or ()
    known = {kind.get('id') for kind in sample.categories if kind.get('name') in classes}
    return (thing for thing in _with_area(sample) if thing['category_id'] in known)


def _with_area(sample: DatasetSample) -> Iterator[dict[str, Any]]:
    images = {image['id']: image for image in sample.images or ()}
    for thing in _read(sample):
        if not is_unused(thing, images.get(thing['image_id'], {})):
            yield thing


def doubts_about_annotations(sample: DatasetSample) -> list[str]:
    """What mmdet reads without a word, and is hardly meant so."""
    if not is_read_as_coco(sample.dataset):
        return []
    doubts = [_same_ids(sample), _no_category(sample), _beyond(sample)]
    doubts += [_of_no_image(sample)] if sample.strays else []
    if _is_whole(sample) and all(thing.get('iscrowd') for thing in _read(sample)):
        doubts.append('all boxes are of crowds (iscrowd is not 0), from which nothing is learned')
    return [text for text in doubts if text]


def _same_ids(sample: DatasetSample) -> str | None:
    names: dict[Any, list[str]] = {}
    for image in sample.images or ():
        names.setdefault(image.get('id'), []).append(str(image.get('file_name')))
    shared = [f'{", ".join(files)} ({number})' for number, files in names.items() if files[1:]]
    if not shared:
        return None
    return f'images have the same id, so that one alone is read: {list_some(shared, most=3)}'


def _of_no_image(sample: DatasetSample) -> str:
    named = [f'{_named("annotation", t)} of image {t.get("image_id")!r}' for t in sample.strays]
    has_texts = any(isinstance(thing.get('image_id'), str) for thing in sample.strays)
    return (
        f'{len(named)} of its first {len(sample.objects) + len(named)} boxes are of an image that '
        f'the file does not have, and are left out: {list_some(named, most=3)}'
        f'{" (a text is another id than a number)" if has_texts else ""}'
    )


def _no_category(sample: DatasetSample) -> str | None:
    known = {category.get('id') for category in sample.categories}
    unknown = [thing for thing in _read(sample) if thing['category_id'] not in known]
    if not unknown:
        return None
    named = [f'{_named("annotation", t)} of category {t["category_id"]}' for t in unknown]
    return (
        f'{len(unknown)} of its first {len(sample.objects)} boxes are of no category, and are left '
        f'out: {list_some(named, most=3)}'
    )


def _beyond(sample: DatasetSample) -> str | None:
    """Many boxes that end outside of their image were perhaps written as two corners."""
    images = {image['id']: image for image in sample.images or ()}
    of_known = [thing for thing in _read(sample) if thing['image_id'] in images]
    beyond = [thing for thing in of_known if _ends_beyond(thing, images[thing['image_id']])]
    if len(beyond) < _MANY or 5 * len(beyond) <= len(of_known):
        return None
    named = [f'{thing["bbox"]} ({_named("annotation", thing)})' for thing in beyond]
    return (
        f'{len(beyond)} of {len(of_known)} boxes end outside of their image: '
        f'{list_some(named, most=3)}. COCO writes a box as [left, top, width, height], not as two '
        'corners'
    )


def _ends_beyond(thing: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    left, top, width, height = thing['bbox']
    # by more than rounding
    return left + width > image['width'] + 2 or top + height > image['height'] + 2


def _read(sample: DatasetSample) -> list[dict[str, Any]]:
    return [thing for thing in sample.objects or () if not thing.get('ignore')]


def is_read_as_coco(dataset: Any) -> bool:
    """Whether images and boxes are taken from the file by ``CocoDataset`` itself."""
    methods = [getattr(type(dataset), name, None) for name in ('load_data_list', 'parse_data_info')]
    return all(getattr(method, '__module__', None) == 'mmdet.datasets.coco' for method in methods)


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(_is_side, box))


def _is_side(number: Any) -> bool:
    return is_of_pixels(number) or number != number  # NaN, which is told of as outside its image


def _named(what: str, entry: Mapping[str, Any]) -> str:
    if 'id' in entry:
        return f'{what} {entry["id"]}'
    of = entry.get('file_name') or f'of image {entry.get("image_id")}'
    return f'an {what} ({of})'
