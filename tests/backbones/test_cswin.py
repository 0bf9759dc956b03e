"""Where the readings of CSWin differ, and what its published variants are."""

from __future__ import annotations

import pytest
import torch

from mmrest import CSWin
from mmrest.errors import InputError
from tests.backbones.families import build


@pytest.mark.parametrize('side', [64, 65, 66, 67])
def test_the_stem_of_the_authors_has_a_row_less_at_two_remainders(side: int) -> None:
    images = torch.zeros(1, 3, side, 64)
    ceil, floor = (build(CSWin, sizes=sizes)(images)[0] for sizes in ('ceil', 'floor'))
    assert ceil.shape[2] == -(-side // 4)
    assert floor.shape[2] == (side + 1) // 4


def test_an_image_is_filled_with_zeros() -> None:
    """The default is the authors' function of the padded image."""
    ceil = build(CSWin).eval()
    floor = build(CSWin, sizes='floor').eval()
    floor.load_state_dict(ceil.state_dict())
    images = torch.randn(1, 3, 65, 70)
    padded = torch.zeros(1, 3, 68, 72)
    padded[:, :, :65, :70] = images
    for actual, expected in zip(ceil(images), floor(padded), strict=True):
        assert torch.equal(actual, expected)
    with pytest.raises(InputError, match="take sizes='ceil'"):
        floor(torch.zeros(1, 3, 2, 64))


def test_the_large_one_has_the_heads_of_the_code() -> None:
    """24 in the last stage, where the paper has 48; the shapes of weights do not tell."""
    assert CSWin.variants['large'].num_heads == (6, 12, 24, 24)
    assert CSWin.variants['large_384'].num_heads == (6, 12, 24, 24)
