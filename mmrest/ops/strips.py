"""A map in strips of rows, so that what is large on the way is never in memory as a whole.

For what sees a map through windows, like a convolution: a strip is computed from some more rows
than its own, and what has seen the strip's edge in the place of the map is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

# Elements of a strip of what shall not be in memory; docs/scripts/ablation.py --constants tries
# others.
_STRIP_ELEMENTS = 2**21
# Memory of more than 32 MB is new to the process every time that it is asked for, page by page.
_LARGE_MAP = 2**23


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


def cut_in_strips(
    images: int, height: int, row_elements: int, stride: int = 1, reach: int = 1
) -> list[Strip]:
    """Strips of one image, or of more together where those are small.

    Args:
        images: In the batch.
        height: Of the maps, in rows.
        row_elements: Of a row of what shall not be in memory as a whole.
        stride: Of the windows; the result has ``ceil(height / stride)`` rows.
        reach: Rows that a window sees above and below its middle.
    """
    step = max(1, _STRIP_ELEMENTS // (row_elements * stride)) * stride
    above = -(-reach // stride) * stride  # windows of a strip are at the places that the map's have
    together = max(1, _STRIP_ELEMENTS // (row_elements * height))
    strips = []
    for first_image in range(0, images, together):
        for first in range(0, height, step):
            last = min(first + step, height)
            top = max(first - above, 0)
            rows = slice(first // stride, -(-last // stride))
            dropped = (first - top) // stride
            strips.append(
                Strip(
                    images=slice(first_image, first_image + together),
                    seen=slice(top, min(last + reach, height)),
                    kept=slice(dropped, dropped + rows.stop - rows.start),
                    rows=rows,
                )
            )
    return strips


def cut_if_large(x: Tensor, channels: int, stride: int) -> list[Strip] | None:
    """Strips of a map that is too large to be computed as a whole; None of others.

    Args:
        x: (B, H, W, ...).
        channels: Of what is computed of each cell, and then seen through windows.
        stride: Of the windows.
    """
    images, height, width = x.shape[:3]
    if images * height * width * channels <= _LARGE_MAP:
        return None
    return cut_in_strips(images, height, width * channels, stride)


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
        (B, h, ...).
    """
    out = None
    for strip in strips:
        rows = function(x[strip.images, strip.seen], strip.kept)
        if out is None:
            if len(strips) == 1:
                return rows
            out = rows.new_empty(len(x), strips[-1].rows.stop, *rows.shape[2:])
        out[strip.images, strip.rows] = rows
    return out
