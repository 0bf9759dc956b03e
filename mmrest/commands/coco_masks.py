"""Are COCO's masks of a kind that mmdet and pycocotools can draw?

They end in numpy or in C code, which names neither the file nor the annotation, and which takes all
memory for a polygon with NaN in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

_FARTHEST = 1e6  # of pixels; C code keeps each of an outline's, and counts them in 32 bits


def is_of_pixels(number: Any) -> bool:
    """Whether something is a number that a place in an image can have."""
    return isinstance(number, Real) and abs(number) < _FARTHEST


def fault_of_mask(mask: Any, image: Mapping[str, Any]) -> str | None:
    """What drawing a mask would fail at; None if nothing, or if mmdet ignores it itself.

    Args:
        mask: The ``segmentation`` of an annotation, which is not empty.
        image: Its image's entry, or an empty one where that is not known.
    """
    if isinstance(mask, list):
        return _fault_of_polygons(mask)
    if isinstance(mask, Mapping):
        sides = [image['height'], image['width']] if image else None
        return _fault_of_runs(mask.get('counts'), mask.get('size'), sides)
    return f'has segmentation={mask!r:.60}, which is neither polygons nor run lengths'


def _fault_of_polygons(polygons: list) -> str | None:
    if not all(isinstance(polygon, list) for polygon in polygons):
        return (
            'has a segmentation that is one list of numbers; COCO writes a list of polygons, '
            '[[x1, y1, x2, y2, ...]]'
        )
    for polygon in polygons:
        for number in polygon:
            if not is_of_pixels(number):
                return f'has {number!r:.60} in a polygon of its segmentation'
    return None


def _fault_of_runs(counts: Any, size: Any, sides: list[int] | None) -> str | None:
    if counts is None or size is None:
        return None  # mmdet ignores it
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) for n in size)):
        return f'has a segmentation of size={size!s:.60}; COCO writes [height, width]'
    if (sides and size != sides) or math.prod(size) >= 2**32:
        return f'has a segmentation of size={size}, and its image {sides or "cannot be so large"}'
    if isinstance(counts, str):
        counts = _decode_runs(counts)
    elif not (isinstance(counts, list) and all(isinstance(n, int) for n in counts)):
        return f'has a segmentation of counts={counts!r:.60}, which are no run lengths'
    if counts is None or min(counts, default=0) < 0 or sum(counts) != math.prod(size):
        return (
            f'has a segmentation whose run lengths do not make up its size, {size[0]}x{size[1]} '
            '(height x width)'
        )
    return None


def _decode_runs(text: str) -> list[int] | None:
    """The run lengths of COCO's compressed text; None if it is none.

    Each is in digits of five bits, the lowest first, and from the fourth on it is the difference to
    the last but one.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64:
            return None
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            value -= (digit & 16) and 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs
