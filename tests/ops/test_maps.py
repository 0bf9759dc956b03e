from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmrest.ops import (
    adaptive_average,
    channels_first,
    crop,
    fill_up,
    maps,
    max_pool,
    pad_map,
    use_implementation,
)


def test_a_crop_is_the_top_left() -> None:
    x = torch.arange(2 * 3 * 4).view(1, 2, 3, 4)
    assert torch.equal(crop(x, (2, 3)), x[:, :, :2, :3])
    assert torch.equal(crop(x, (1, 2), dims=(1, 2)), x[:, :1, :2])
    assert crop(x, (2, 3)).is_contiguous()


def test_padding_is_zeros_around_a_map() -> None:
    x = torch.randn(2, 3, 4, 5)
    expected = F.pad(x.permute(0, 3, 1, 2), (4, 2, 3, 1)).permute(0, 2, 3, 1)
    assert torch.equal(pad_map(x, bottom=1, right=2, top=3, left=4), expected)
    assert torch.equal(pad_map(x.transpose(1, 2), 0, 0), x.transpose(1, 2))


@pytest.mark.parametrize(
    ('size', 'filled'), [((1, 1), (4, 4)), ((4, 8), (4, 8)), ((5, 3), (8, 4)), ((8, 9), (8, 12))]
)
def test_a_map_is_filled_up_to_whole_steps(size: tuple[int, int], filled: tuple[int, int]) -> None:
    x = torch.randn(2, *size, 3)
    more = fill_up(x, 4)
    assert more.shape == (2, *filled, 3)
    assert torch.equal(more[:, : size[0], : size[1]], x)
    torch.testing.assert_close(more.sum((1, 2)), x.sum((1, 2)))


@pytest.mark.parametrize('sides', [((1, 1), (1, 1)), ((7, 5), (3, 5)), ((12, 9), (6, 2))], ids=str)
def test_an_exported_average_is_torchs(
    sides: tuple[tuple[int, int], tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    size, areas = sides
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    monkeypatch.setattr(maps, 'is_exporting', lambda: True)
    torch.testing.assert_close(adaptive_average(x, areas), F.adaptive_avg_pool2d(x, areas))


@pytest.mark.parametrize('name', ['auto', 'reference'])
@pytest.mark.parametrize('shape', [(1, 1, 1, 1), (2, 3, 4, 5), (1, 70, 2, 65), (0, 2, 2, 3)])
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16], ids=str)
def test_channels_come_first_and_gradients_go_back(
    dtype: torch.dtype, shape: tuple[int, ...], name: str
) -> None:
    tokens = torch.randn(shape, dtype=dtype, requires_grad=True)
    with use_implementation(name):
        for x in (tokens, tokens.transpose(1, 2)):
            first = channels_first(x)
            assert first.is_contiguous()
            assert torch.equal(first, x.permute(0, 3, 1, 2))
            direction = torch.randn_like(first)
            (back,) = torch.autograd.grad(first, x, direction)
            assert torch.equal(back, direction.permute(0, 2, 3, 1))


def test_the_transposed_copy_is_an_operator_of_torch() -> None:
    matrices = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.mmrest.transpose.default, (matrices,))
    assert torch.autograd.gradgradcheck(torch.ops.mmrest.transpose, (matrices,))


@pytest.mark.parametrize('size', [(1, 1), (1, 4), (5, 3), (8, 9)], ids=str)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
def test_the_maximum_of_cells_and_its_gradient_are_torchs(
    size: tuple[int, int], dtype: torch.dtype
) -> None:
    # integers, so that several cells may be the largest
    x = torch.randint(0, 4, (2, 5, *size)).to(dtype).permute(0, 2, 3, 1).requires_grad_()
    expected = F.max_pool2d(x.permute(0, 3, 1, 2), 3, 2, 1).permute(0, 2, 3, 1)
    pooled = max_pool(x, 2)
    assert torch.equal(pooled, expected)
    direction = torch.randn_like(pooled)
    (actual,) = torch.autograd.grad(pooled, x, direction)
    assert torch.equal(actual, torch.autograd.grad(expected, x, direction)[0])


def test_the_maximum_of_cells_is_an_operator_of_torch() -> None:
    x = torch.randn(2, 7, 6, 3, requires_grad=True)
    torch.library.opcheck(torch.ops.mmrest.max_pool.default, (x, 2))
    cells = torch.ops.mmrest.max_pool(x, 2)[1]
    given = torch.randn(2, 4, 3, 3), cells, [7, 6], 2
    torch.library.opcheck(torch.ops.mmrest.max_pool_backward.default, given)
