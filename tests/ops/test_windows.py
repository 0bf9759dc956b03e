"""Window attention against its literal form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmrest.ops import (
    attend_in_windows,
    cut_windows,
    join_windows,
    use_implementation,
    window_attention,
)


def queries_keys_values(grid: tuple[int, int]) -> Tensor:
    return torch.randn(3, 2, 4, 1 + grid[0] * grid[1], 8, dtype=torch.float64)


@pytest.mark.parametrize('grid', [(1, 1), (3, 5), (6, 4)], ids=str)
def test_a_window_that_covers_the_map_is_global_attention(grid: tuple[int, int]) -> None:
    qkv = queries_keys_values(grid)
    windowed = attend_in_windows(*qkv, grid, max(grid))
    torch.testing.assert_close(windowed, F.scaled_dot_product_attention(*qkv))


@pytest.mark.parametrize('window_size', [1, 2, 3, 4, 5])
@pytest.mark.parametrize('grid', [(1, 6), (4, 4), (5, 7), (8, 3)], ids=str)
def test_tokens_attend_to_their_window_and_the_class_token(
    grid: tuple[int, int], window_size: int
) -> None:
    # the literal form: one mask over all pairs of tokens, and no padding anywhere
    rows, columns = torch.meshgrid(*(torch.arange(n) // window_size for n in grid), indexing='ij')
    window = (rows * 1000 + columns).flatten()
    allowed = torch.ones(1 + len(window), 1 + len(window), dtype=torch.bool)
    allowed[1:, 1:] = window[:, None] == window
    q, k, v = queries_keys_values(grid)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    torch.testing.assert_close(attend_in_windows(q, k, v, grid, window_size), expected)


def test_windows_that_do_not_divide_the_map_do_not_see_padding() -> None:
    # constant tokens: attention to them is the value itself, unless a zero key joins the softmax
    q = torch.randn(1, 4, 1 + 15, 8)
    constant = torch.ones_like(q)
    torch.testing.assert_close(attend_in_windows(q, constant, constant, (5, 3), 2), constant)


@pytest.mark.parametrize('size', [(None, 2), (3, None), (None, None)], ids=str)
def test_a_window_may_have_the_whole_side_of_the_map(size: tuple[int | None, int | None]) -> None:
    q, k, v = torch.randn(3, 2, 5, 7, 2, 4, dtype=torch.float64)
    numbers = tuple(step or side for step, side in zip(size, (5, 7), strict=True))
    assert torch.equal(cut_windows(q, size), cut_windows(q, numbers))
    assert torch.equal(join_windows(cut_windows(q, size), (5, 7), size), q)
    torch.testing.assert_close(window_attention(q, k, v, size), window_attention(q, k, v, numbers))


@pytest.mark.parametrize('implementation', ['auto', 'reference'])
@pytest.mark.parametrize('trailing', [(3,), (2, 3)], ids=str)
@pytest.mark.parametrize('window', [(4, 4), (3, 7), (9, 2), (20, 1)], ids=str)
def test_windows_are_cut_as_by_slices_and_gradients_are_joined(
    window: tuple[int, int], trailing: tuple[int, ...], implementation: str
) -> None:
    grid = 9, 7
    # permuted, so that nothing is in order
    maps = torch.randn(7, 2, 9, *trailing, dtype=torch.float64, requires_grad=True)
    x = maps.movedim(0, 2)
    with use_implementation(implementation):
        windows = cut_windows(x, window)
        joined = join_windows(windows, grid)
    expected = []
    for image in x.detach():
        for top in range(0, grid[0], window[0]):
            for left in range(0, grid[1], window[1]):
                part = image[top : top + window[0], left : left + window[1]]
                expected.append(torch.zeros(*window, *trailing, dtype=x.dtype))
                expected[-1][: part.shape[0], : part.shape[1]] = part
    assert torch.equal(windows, torch.stack(expected))
    assert windows.is_contiguous()
    assert torch.equal(joined, x)
    direction = torch.randn_like(joined)
    (grad,) = torch.autograd.grad(joined, maps, direction)
    assert torch.equal(grad.movedim(0, 2), direction)


def test_cuts_and_joins_are_operators_of_torch() -> None:
    maps = torch.randn(2, 5, 7, 3, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.mmrest.cut_windows.default, (maps, 4, 3))
    windows = torch.ops.mmrest.cut_windows(maps, 4, 3).detach().requires_grad_()
    torch.library.opcheck(torch.ops.mmrest.join_windows.default, (windows, 5, 7))
