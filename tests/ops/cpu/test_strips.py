from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmrest.ops.cpu import strips
from mmrest.ops.cpu.strips import Convolution, convolve_in_strips


def make(*layers: tuple[int, int, int, int], bias: bool = True) -> list[Convolution]:
    """Convolutions of (channels, kernel, stride, padding) for images of three channels."""
    made, before = [], 3
    for channels, kernel, stride, padding in layers:
        weight = torch.randn(channels, before, kernel, kernel)
        made.append(Convolution(weight, torch.randn(channels) if bias else None, stride, padding))
        before = channels
    return made


CHAINS = {
    "ResT's stem": make((4, 3, 2, 1), (4, 3, 1, 1), (8, 3, 2, 1)),
    "ResTv2's stem": make((4, 3, 2, 1), (8, 3, 2, 1), (8, 1, 1, 0)),
    'no bias': make((4, 3, 2, 1), (5, 3, 1, 1), bias=False),
    'a single one': make((4, 3, 2, 1)),
    'wide kernels, no padding': make((4, 5, 3, 2), (6, 2, 2, 0)),
}


@pytest.mark.parametrize('elements', [2**20, 900, 1], ids=['one strip', 'some', 'row by row'])
@pytest.mark.parametrize('size', [(32, 48), (33, 47), (19, 70), (5, 5)], ids=str)
@pytest.mark.parametrize('chain', CHAINS)
def test_strips_are_the_convolutions_of_the_whole(
    chain: str, size: tuple[int, int], elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strips, '_STRIP_ELEMENTS', elements)
    images = torch.randn(2, 3, *size)
    before = images.clone()
    expected = images
    for i, (weight, bias, stride, padding) in enumerate(CHAINS[chain]):
        expected = expected.relu() if i else expected
        expected = F.conv2d(expected, weight, bias, stride, padding)
    actual = convolve_in_strips(images, CHAINS[chain])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


def test_a_batch_does_not_make_strips_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, '_STRIP_ELEMENTS', 5000)
    heights = []
    compute = strips._strip

    def spy(x: torch.Tensor, *args: Any) -> torch.Tensor:
        maps = compute(x, *args)
        heights.append(maps.shape[2])
        return maps

    monkeypatch.setattr(strips, '_strip', spy)
    convolve_in_strips(torch.randn(1, 3, 64, 64), CHAINS['a single one'])
    alone, heights[:] = list(heights), []
    convolve_in_strips(torch.randn(3, 3, 64, 64), CHAINS['a single one'])
    assert heights == alone * 3


def test_no_map_but_the_last_is_ever_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, '_STRIP_ELEMENTS', 1000)
    made = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if not func.is_view:
                made.append(out.numel())
            return out

    images = torch.randn(1, 3, 128, 128)
    with Watch():
        last = convolve_in_strips(images, CHAINS["ResT's stem"])
    assert max(made) == last.numel() < 4 * 64 * 64
