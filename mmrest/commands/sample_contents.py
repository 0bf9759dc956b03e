"""Do a data set's first files fit together: images, annotated sizes, boxes, label maps?

mmdet leaves out boxes that lie outside their image or have no area, and takes images of another
size than their annotations', without a word. mmseg trains on masks of 0 and 255, whose foreground
is what it ignores, and stops on the GPU, without the file's name, where a label has no class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mmrest.commands.dataset_sample import DatasetSample
from mmrest.config_nodes import iterate_dicts, type_name
from mmrest.errors import list_some

_MOST_LABEL_MAPS = 20
_EXIF_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # by a quarter, with or without a mirror


def doubts_about(node: Mapping[str, Any], sample: DatasetSample) -> list[str]:
    """What does not fit together in the first files of a data set; a run may work nevertheless.

    Args:
        node: The config of the data set.
        sample: Of the data set, with its first images.
    """
    steps = {type_name(step): step for step in iterate_dicts(node.get('pipeline') or ())}
    found = [_unused_boxes(sample)]
    if loader := steps.get('LoadImageFromFile'):
        sizes = _sizes_as_loaded(sample.infos or (), loader)
        found.append(_other_sizes(sample.infos or (), sizes))
        if 'LoadAnnotations' in steps and hasattr(sample.reader, 'reduce_zero_label'):
            found += _label_maps(sample, sizes)
    return [text for text in found if text]


def _unused_boxes(sample: DatasetSample) -> str | None:
    """Boxes that mmdet's COCO-like classes leave out."""
    images = {info['img_id']: info for info in sample.infos or () if 'img_id' in info}
    unused = [
        f'{thing.get("bbox")} (annotation {thing.get("id")} of image {thing.get("image_id")})'
        for thing in sample.objects or ()
        if is_unused(thing, images.get(thing.get('image_id'), {}))
    ]
    if not unused:
        return None
    return (
        f'{len(unused)} of its first {len(sample.objects)} boxes lie outside their image or have '
        f'no area, and are left out: {list_some(unused, most=3)}. COCO writes a box as [left, top, '
        'width, height], in pixels'
    )


def is_unused(thing: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    """Whether mmdet leaves out this box of an image, whose size may be unknown."""
    box = thing.get('bbox')
    if not (isinstance(box, list) and len(box) == 4):
        return False
    left, top, width, height = box
    right, bottom = min(left + width, image.get('width', np.inf)), top + height
    bottom = min(bottom, image.get('height', np.inf))
    inside = right > max(left, 0) and bottom > max(top, 0)
    return not inside or width < 1 or height < 1 or thing.get('area', 1) <= 0


def _sizes_as_loaded(
    infos: Sequence[Mapping[str, Any]], loader: Mapping[str, Any]
) -> dict[str, tuple[int, int, bool]]:
    """Path -> width and height as mmcv loads it, and whether its EXIF data turned it."""
    turns = loader.get('color_type', 'color') in ('color', 'grayscale')
    turns = turns and loader.get('imdecode_backend', 'cv2') in ('cv2', 'pillow')
    sizes = {}
    for path in (info.get('img_path') for info in infos):
        try:
            with Image.open(path) as image:
                turned = turns and image.getexif().get(_EXIF_ORIENTATION) in _TURNED
                width, height = image.size[::-1] if turned else image.size
        except Exception:  # no image, or of a kind that others read: loading it will tell
            continue
        sizes[path] = (width, height, turned)
    return sizes


def _other_sizes(
    infos: Sequence[Mapping[str, Any]], sizes: Mapping[str, tuple[int, int, bool]]
) -> str | None:
    """Images that have another size than the annotations say."""
    wrong, any_turned = [], False
    for info in infos:
        width, height, turned = sizes.get(info.get('img_path'), (None, None, False))
        annotated = (info.get('width'), info.get('height'))
        if width is None or None in annotated or (width, height) == annotated:
            continue
        any_turned |= turned
        why = ', turned by its EXIF data' if turned else ''
        wrong.append(f'{info["img_path"]} ({width}x{height}{why}; annotated {_size(annotated)})')
    if not wrong:
        return None
    text = (
        f'images have another size than their annotations say, so that boxes may not fit: '
        f'{list_some(wrong, most=3)}'
    )
    if any_turned:
        text += (
            ". dict(type='LoadImageFromFile', color_type='color_ignore_orientation') reads images "
            'without turning them'
        )
    return text


def _label_maps(
    sample: DatasetSample, sizes: Mapping[str, tuple[int, int, bool]]
) -> Iterator[str | None]:
    """Label maps of another size than their image, in colour, or with labels of no class."""
    maps = [*_read_label_maps((sample.infos or ())[:_MOST_LABEL_MAPS])]
    other = [
        f'{info["seg_map_path"]} ({_size(labels.shape[1::-1])}; image {_size(image)})'
        for info, labels in maps
        for image in [sizes.get(info.get('img_path'), labels.shape[1::-1])[:2]]
        if labels.shape[1::-1] != image
    ]
    if other:
        yield (
            f'label maps have another size than their image (width x height): '
            f'{list_some(other, most=3)}. Where resizing does not make them equal, a run ends there'
        )
    if coloured := [info['seg_map_path'] for info, labels in maps if labels.ndim > 2]:
        yield (
            f'label maps are in colour: {list_some(coloured, most=3)}. mmseg reads one channel, '
            "each pixel's class number"
        )
    yield _labels_of_no_class(sample.reader, [(i, labels) for i, labels in maps if labels.ndim < 3])


def _read_label_maps(
    infos: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[Mapping[str, Any], np.ndarray]]:
    for info in infos:
        try:
            with Image.open(info.get('seg_map_path')) as image:
                labels = np.asarray(image)
        except Exception:  # as for images
            continue
        yield info, labels


def _labels_of_no_class(
    reader: Any, maps: Sequence[tuple[Mapping[str, Any], np.ndarray]]
) -> str | None:
    num_classes = len(reader.metainfo.get('classes') or ())
    ignored = getattr(reader, 'ignore_index', 255)
    raw = [{int(value) for value in np.unique(labels)} for _, labels in maps]
    mapped = [_mapped(values, info) for values, (info, _) in zip(raw, maps, strict=True)]
    known = {*range(num_classes), ignored}
    unknown = [
        f'{info["seg_map_path"]} ({list_some(sorted(values - known), most=5)})'
        for values, (info, _) in zip(mapped, maps, strict=True)
        if values - known
    ]
    if unknown and num_classes:
        return (
            f'label maps have labels of no class, which are 0 to {num_classes - 1} and {ignored} '
            f'for none: {list_some(unknown, most=3)}. A run ends where it meets one'
        )
    if num_classes > 1 and set().union(*raw) == {0, 255} and set().union(*mapped) == {0, ignored}:
        return (
            f'its first label maps hold 0 and 255 alone, and {ignored} is ignored: a mask of 0 and '
            '255 must be written as 0 and 1'
        )
    # as where 0 is a class, and the others have moved down
    all_but_the_last = set().union(*mapped) - {ignored} == {*range(num_classes - 1)}
    if not getattr(reader, 'reduce_zero_label', False) or _has_its_own_classes(reader):
        return None
    if all_but_the_last and 0 in set().union(*raw):
        return (
            f'reduce_zero_label=True takes 0 for no class and 1 for the first, and {num_classes}, '
            f'which is then {reader.metainfo["classes"][-1]}, is in none of the first {len(maps)} '
            'label maps. If 0 is a class of yours, write reduce_zero_label=False'
        )
    return None


def _has_its_own_classes(reader: Any) -> bool:
    """Whether the classes are those that are written with the data set's own class."""
    return reader.metainfo.get('classes') == type(reader).METAINFO.get('classes')


def _size(width_and_height: tuple[int, ...]) -> str:
    return 'x'.join(map(str, width_and_height))


def _mapped(values: set[int], info: Mapping[str, Any]) -> set[int]:
    """Labels as mmseg's ``LoadAnnotations`` changes them."""
    mapping = info.get('label_map') or {}
    values = {mapping.get(value, value) for value in values}
    if info.get('reduce_zero_label'):
        values = {255 if value in (0, 255) else value - 1 for value in values}
        values = {255 if value == 254 else value for value in values}
    return values
