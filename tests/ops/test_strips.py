"""A map in strips gives what the whole map gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmrest.ops import strips


@pytest.fixture
def seen() -> list[int]:
    """Elements of what was computed at once."""
    return []


@pytest.mark.parametrize('images', [1, 3])
@pytest.mark.parametrize('height', [1, 2, 7, 16, 25])
@pytest.mark.parametrize('rows', [0.5, 1, 4, 30])
def test_a_convolution_in_strips_is_that_of_the_whole_map(
    rows: float, height: int, images: int, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, row_elements = torch.randn(images, height, 5, 2).double(), 5 * 2
    weight = torch.randn(3, 2, 3, 3).double()

    def convolve(cells: Tensor, kept: slice = slice(None)) -> Tensor:
        seen.append(cells.numel())
        maps = F.conv2d(cells.permute(0, 3, 1, 2), weight, padding=1)
        return maps.permute(0, 2, 3, 1)[:, kept]

    expected = convolve(x)
    limit = int(rows * row_elements)
    monkeypatch.setattr(strips, '_STRIP_ELEMENTS', limit)
    cut = strips.cut_in_strips(images, height, row_elements)
    seen.clear()
    torch.testing.assert_close(strips.compute_in_strips(convolve, x, cut), expected)
    # a strip has at least a row, and sees one above and one below
    assert max(seen) <= max(limit, row_elements) + 2 * row_elements
    assert (len(cut) == 1) == (x.numel() <= limit or images == height == 1)
