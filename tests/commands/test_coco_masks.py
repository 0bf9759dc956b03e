"""Masks as COCO's annotations have them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mmrest.commands.coco_masks import fault_of_mask


@given(
    st.integers(1, 30).flatmap(
        lambda height: st.lists(
            st.lists(st.booleans(), min_size=height, max_size=height), min_size=1, max_size=200
        )
    )
)
def test_what_pycocotools_writes_is_sound(columns: list[list[bool]]) -> None:
    mask = np.asfortranarray(np.array(columns, np.uint8).T)
    written = coco_mask.encode(mask)
    size, text = list(written['size']), written['counts'].decode()
    image = dict(height=size[0], width=size[1])
    assert fault_of_mask(dict(size=size, counts=text), image) is None
    taller = dict(size=[size[0] + 1, size[1]], counts=text)
    assert 'do not make up its size' in fault_of_mask(taller, {})


@pytest.mark.parametrize(
    'mask',
    [
        [[1, 2, 30, 4, 30.5, 30]],
        [[1, 2, 30, 4], [1, 2, 3, 4, 5, 6, 7]],  # which mmdet leaves out
        [[-3, 2, 30, 4, 3000, 30]],
        dict(size=[5, 5], counts=[4, 5, 16]),
        dict(size=[5, 5], counts=[25]),
        dict(size=[5, 5], counts=None),  # which mmdet ignores
        dict(counts=[25]),
    ],
    ids=str,
)
def test_what_mmdet_takes_is_taken(mask: Any) -> None:
    assert fault_of_mask(mask, dict(height=5, width=5)) is None


@pytest.mark.parametrize(
    ('mask', 'said'),
    [
        ([1, 2, 30, 4, 30, 30], 'one list of numbers'),
        ([[1, 2, float('nan'), 4, 5, 6]], 'has nan in a polygon'),
        ([[1, 2, float('inf'), 4, 5, 6]], 'has inf in a polygon'),
        ([[1, 2, 1e30, 4, 5, 6]], 'has 1e\\+30 in a polygon'),
        ([[1, 2, '3', 4, 5, 6]], "has '3' in a polygon"),
        ([[1, 2, [3], 4, 5, 6]], r'has \[3\] in a polygon'),
        ('polygon', "segmentation='polygon', which is neither"),
        (3, 'segmentation=3, which is neither'),
        (dict(size=[5, 5], counts='zzzz'), 'do not make up its size, 5x5'),
        (dict(size=[5, 5], counts='\x00'), 'do not make up'),
        (dict(size=[5, 5], counts=''), 'do not make up'),
        (dict(size=[5, 5], counts=[]), 'do not make up'),
        (dict(size=[5, 5], counts=[10**12]), 'do not make up'),
        (dict(size=[5, 5], counts=[30, -5]), 'do not make up'),
        (dict(size=[5, 5], counts=['25']), r"counts=\['25'\], which are no run lengths"),
        (dict(size=[5, 5], counts=25), 'counts=25, which'),
        (dict(size=[4, 5], counts=[20]), r'of size=\[4, 5\], and its image \[5, 5\]'),
        ([[0, 0, 1e8, 0, 1e8, 1e8]], 'has 100000000.0 in a polygon'),
        (dict(size=25, counts=[25]), r'size=25; COCO writes \[height, width\]'),
        (dict(size=[5.5, 5], counts=[25]), 'size='),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_told(mask: Any, said: str) -> None:

    assert re.search(said, fault_of_mask(mask, dict(height=5, width=5)))
