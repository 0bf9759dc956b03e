"""A map in strips of rows, so that what is large on the way is never in memory as a whole.

For 3x3 convolutions: a strip is computed from a row more above and below, and what has seen the
strip's edge in the place of the map is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

# Elements of a strip of what shall not be in memory; docs/scripts/ablation.py --constants tries
# others.
_STRIP_ELEMENTS = 2**21


@dataclass(frozen=True)
class Strip:
    """Slices of a strip.

    Attributes:
        images: Of the batch.
        seen: Rows of the map from which it is computed.
        kept: Rows of what is computed from them that are the strip's.
        rows: Their place in the result.
    """

    images: slice
    seen: slice
    kept: slice
    rows: slice


def cut_in_strips(images: int, height: int, row_elements: int) -> list[Strip]:
    """Strips of one image, or of more together where those are small.

    Args:
        images: In the batch.
        height: Of the maps, in rows.
        row_elements: Of a row of what shall not be in memory as a whole.
    """
    step = max(1, _STRIP_ELEMENTS // row_elements)
    together = max(1, _STRIP_ELEMENTS // (row_elements * height))
    strips = []
    for first_image in range(0, images, together):
        for first in range(0, height, step):
            last, top = min(first + step, height), max(first - 1, 0)
            strips.append(
                Strip(
                    images=slice(first_image, first_image + together),
                    seen=slice(top, min(last + 1, height)),
                    kept=slice(first - top, last - top),
                    rows=slice(first, last),
                )
            )
    return strips


def compute_in_strips(
    function: Callable[[Tensor, slice], Tensor], x: Tensor, strips: list[Strip]
) -> Tensor:
    """Put together what a function computes of every strip.

    Args:
        function: Takes the rows (b, H', W, ...) that a strip sees and which rows of its result to
            keep, and returns these.
        x: (B, H, W, ...).
        strips: Of the map.

    Returns:
        (B, H, ...).
    """
    out = None
    for strip in strips:
        rows = function(x[strip.images, strip.seen], strip.kept)
        if out is None:
            if len(strips) == 1:
                return rows
            out = rows.new_empty(*x.shape[:2], *rows.shape[2:])
        out[strip.images, strip.rows] = rows
    return out
