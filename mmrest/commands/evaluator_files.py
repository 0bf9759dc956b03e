"""Does an evaluator read the annotations of the data set that it judges?

Who takes another data set and forgets the evaluator's ``ann_file`` is told by mmdet after the first
epoch, by an ``IndexError``, or not at all: an AP of 0 is of images that nobody has predicted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mmrest.commands.coco_annotations import is_read_as_coco, names_of_images
from mmrest.commands.dataset_sample import DatasetSample
from mmrest.commands.json_parts import read_first
from mmrest.config_nodes import type_name
from mmrest.errors import list_some

_MOST_CATEGORIES = 10_000


def compare_with_evaluator(
    metric: Mapping[str, Any], node: Mapping[str, Any], sample: DatasetSample
) -> tuple[str | None, str | None]:
    """What is wrong with the annotations that an evaluator reads, and what may be.

    Args:
        metric: The config of an evaluator, or of one of several.
        node: The config of the only data set of its split.
        sample: Of that data set.

    Returns:
        An error and a warning, each None if there is none.
    """
    file = metric.get('ann_file')
    own = getattr(sample.dataset, 'ann_file', None)
    known = type_name(metric) == 'CocoMetric' and isinstance(file, str) and isinstance(own, str)
    if not known or not is_read_as_coco(sample.dataset):
        return None, None
    if not (os.path.isfile(file) and os.path.isfile(own)) or os.path.samefile(file, own):
        return None, None
    classes = sample.dataset.metainfo.get('classes') or ()
    of_data = {kind.get('name') for kind in sample.categories} & {*classes}
    evaluated = read_first(file, 'categories', _MOST_CATEGORIES)
    if evaluated and (absent := of_data - {kind.get('name') for kind in evaluated}):
        return _told(file, own, f'category {list_some(sorted(absent))}'), None
    names = names_of_images(file)
    images = {image.get('id'): image.get('file_name') for image in sample.images or ()}
    absent = [f'{name} (id {number})' for number, name in images.items() if number not in names]
    if absent and not node.get('indices'):
        return _told(file, own, f'image {list_some(absent, 3)}'), None
    renamed = [
        f'{name} (id {number}, there {names[number]})'
        for number, name in images.items()
        if number in names and os.path.basename(str(names[number])) != os.path.basename(str(name))
    ]
    return None, _told(file, own, f'image {list_some(renamed, 3)}') if renamed else None


def _told(file: str, own: str, absent: str) -> str:
    return (
        f'ann_file={file!r} has no {absent}, which the data set that is evaluated has: its '
        f'annotations are {own!r}'
    )
