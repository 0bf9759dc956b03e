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
@pytest.mark.parametrize(('kernel', 'stride'), [(3, 1), (3, 2), (3, 4), (5, 1), (5, 2), (7, 3)])
@pytest.mark.parametrize('rows', [0.5, 1, 4, 30])
def test_a_convolution_in_strips_is_that_of_the_whole_map(
    rows: float,
    kernel: int,
    stride: int,
    height: int,
    images: int,
    seen: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, reach, width = torch.randn(images, height, 5, 2).double(), kernel // 2, 5
    weight = torch.randn(3, 2, kernel, kernel).double()

    def convolve(cells: Tensor, kept: slice = slice(None)) -> Tensor:
        seen.append(cells.numel())
        maps = F.conv2d(cells.permute(0, 3, 1, 2), weight, None, stride, reach)
        return maps.permute(0, 2, 3, 1)[:, kept]

    expected = convolve(x)
    limit = int(rows * width * 2)
    monkeypatch.setattr(strips, '_STRIP_ELEMENTS', limit)
    cut = strips.cut_in_strips(images, height, width * 2, stride, reach)
    seen.clear()
    torch.testing.assert_close(strips.compute_in_strips(convolve, x, cut), expected)
    # a strip has at least the rows of one window's place, and sees some around it
    halo = (reach + -(-reach // stride) * stride) * width * 2
    assert max(seen) <= max(limit, stride * width * 2) + halo
    assert (len(cut) == 1) == (x.numel() <= limit or (images == 1 and height <= stride))


def test_large_maps_alone_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, '_LARGE_MAP', 2 * 8 * 6 * 10)
    monkeypatch.setattr(strips, '_STRIP_ELEMENTS', 4 * 6 * 10)
    assert strips.cut_if_large(torch.zeros(2, 8, 6, 3), 10, 2) is None
    assert len(strips.cut_if_large(torch.zeros(2, 9, 6, 3), 10, 2)) == 6
