"""Does an evaluator read the annotations of the data set that it judges?

Who takes another data set and forgets the evaluator's ``ann_file`` is told by mmdet after the first
epoch, by an ``IndexError``, or not at all: an AP of 0 is of images that nobody has predicted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mmrest.commands.coco_annotations import names_of_images
from mmrest.commands.dataset_sample import DatasetSample
from mmrest.commands.json_parts import read_first
from mmrest.config_nodes import type_name
from mmrest.errors import list_some

_MOST_CATEGORIES = 10_000


def why_of_other_data(metric: Mapping[str, Any], sample: DatasetSample) -> str | None:
    """What is wrong with the annotations that an evaluator reads; None if nothing is known.

    Args:
        metric: The config of an evaluator, or of one of several.
        sample: Of the only data set of its split.
    """
    file = metric.get('ann_file')
    own = getattr(sample.dataset, 'ann_file', None)
    known = type_name(metric) == 'CocoMetric' and isinstance(file, str) and isinstance(own, str)
    if not known or not (os.path.isfile(file) and os.path.isfile(own)):
        return None
    if os.path.realpath(file) == os.path.realpath(own):
        return None
    classes = sample.dataset.metainfo.get('classes') or ()
    of_data = {kind.get('name') for kind in sample.categories} & {*classes}
    evaluated = read_first(file, 'categories', _MOST_CATEGORIES)
    if evaluated and (absent := of_data - {kind.get('name') for kind in evaluated}):
        return _told(file, own, f'category {list_some(sorted(absent))}')
    names = names_of_images(file)
    others = [
        f'{image.get("file_name")} (id {image.get("id")})'
        for image in sample.images or ()
        if os.path.basename(str(names.get(image.get('id'))))
        != os.path.basename(str(image.get('file_name')))
    ]
    return _told(file, own, f'image {list_some(others, 3)}') if others else None


def _told(file: str, own: str, absent: str) -> str:
    return (
        f'ann_file={file!r} has no {absent}, which the data set that is evaluated has: its '
        f'annotations are {own!r}'
    )
