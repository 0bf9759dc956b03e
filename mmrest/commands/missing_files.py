"""Where a file of a data set may be that is not where its config says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmrest.engine.file_plan import IMAGE_SUFFIXES


def where_else(file: str, option: str, suffix: str | None) -> str:
    """What there is in the place of a file, as the end of a message; empty if nothing.

    Args:
        file: That is not there.
        option: Of the data set, for what its names end with, as ``'seg_map_suffix'``.
        suffix: What it is; None if the data set has no such option.
    """
    folder, name = os.path.split(file)
    if suffix and name.endswith(suffix):
        stem = name.removesuffix(suffix)
        others = os.listdir(folder) if os.path.isdir(folder) else []
        ends = [other.removeprefix(stem) for other in sorted(others) if other.startswith(stem)]
        # '1' is the name of '1.png' and '1_labels.png', not of '10.png'
        ends = [
            end for end in ends if not end[:1].isalnum() and end.lower().endswith(IMAGE_SUFFIXES)
        ]
        return f', where {option}={ends[0]!r} would find {stem}{ends[0]}' if ends else ''
    above, twice = os.path.split(folder)
    if twice and twice == os.path.basename(above) and os.path.isfile(os.path.join(above, name)):
        return (
            f', which is in {above}: the annotations name it with {twice}/ in front, so that '
            'data_prefix should leave that out'
        )
    if os.path.isfile(os.path.join(folder, twice, name)):  # unpacked one level too deep
        return f', which is in {os.path.join(folder, twice)}'
    return ''


def suffix_of_images(dataset: Any, folder: Path) -> str:
    """What the names of a folder's images end with, as the end of a message.

    Args:
        dataset: That has found none; of mmseg's it has an ``img_suffix``.
        folder: Where it has looked.
    """
    suffix = getattr(dataset, 'img_suffix', '')
    there = {Path(name).suffix for _, _, names in os.walk(folder) for name in names}
    others = [f"img_suffix='{other}'" for other in sorted(there) if other in IMAGE_SUFFIXES]
    hint = f', where {" or ".join(others)} would find some' if suffix and others else ''
    return f' (*{suffix}){hint}' if suffix else ''
