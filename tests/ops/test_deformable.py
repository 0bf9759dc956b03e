"""Attention to places between the pixels of maps."""

from __future__ import annotations

import math

import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
from torch import Tensor

from mmrest.backbones.gpvit_adapter import mmcv_operator, sample
from mmrest.ops import deformable_attention

SIZES = (5, 7), (3, 4), (1, 1)


def made(device: str = 'cpu') -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Maps of three sizes, and places of 11 queries, some of them outside of the maps."""
    generator = torch.Generator().manual_seed(0)
    options = dict(generator=generator, dtype=torch.float64)
    maps = [torch.randn(2, *size, 3, 4, **options) for size in SIZES]
    locations = [1.4 * torch.rand(2, 11, 3, 6, 2, **options) - 0.2 for _ in SIZES]
    weights = [torch.rand(2, 11, 3, 6, **options) for _ in SIZES]
    return tuple(
        [t.to(device).requires_grad_() for t in part] for part in (maps, locations, weights)
    )


def test_a_pixel_is_found_at_its_centre_and_half_of_it_at_its_edge() -> None:
    values = torch.zeros(1, 2, 4, 1, 1)
    values[0, 1, 2] = 8.0
    places = [(2.5 / 4, 0.75), (3 / 4, 0.75), (2.5 / 4, 1.0), (0.1, 0.1), (2.5 / 4, 0.5)]
    locations = torch.tensor(places)[None, :, None, None]
    found = deformable_attention([values], [locations], [torch.ones(1, 5, 1, 1)])
    torch.testing.assert_close(found.flatten(), torch.tensor([8.0, 4.0, 4.0, 0.0, 4.0]))


def by_mmcv(maps: list[Tensor], locations: list[Tensor], weights: list[Tensor]) -> Tensor:
    """Mmcv's form in plain PyTorch."""
    sampled = multi_scale_deformable_attn_pytorch(
        torch.cat([values.flatten(1, 2) for values in maps], dim=1),
        torch.tensor(SIZES),
        torch.stack(locations, dim=3),
        torch.stack(weights, dim=3),
    )
    return sampled.unflatten(2, (3, 4))


def gradients(output: Tensor, *parts: list[Tensor]) -> list[Tensor]:
    direction = torch.arange(math.prod(output.shape), dtype=output.dtype, device=output.device)
    loss = (output.flatten() * direction.sin()).sum()
    return list(torch.autograd.grad(loss, [t for part in parts for t in part]))


def test_it_is_that_of_mmcv() -> None:
    parts = made()
    actual, expected = deformable_attention(*parts), by_mmcv(*parts)
    torch.testing.assert_close(actual, expected)
    for a, b in zip(gradients(actual, *parts), gradients(expected, *parts), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='the operator of mmcv is for GPUs')
def test_the_operator_of_mmcv_is_equal() -> None:
    assert mmcv_operator() is not None
    parts = made('cuda')
    actual, expected = sample(*parts), deformable_attention(*parts)
    torch.testing.assert_close(actual, expected)
    for a, b in zip(gradients(actual, *parts), gradients(expected, *parts), strict=True):
        torch.testing.assert_close(a, b)


def test_what_is_handed_to_the_operator_of_mmcv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arguments, as far as they can be seen without a GPU: its twin in PyTorch takes them."""

    def twin(
        values: Tensor, shapes: Tensor, starts: Tensor, places: Tensor, shares: Tensor, step: int
    ) -> Tensor:
        assert starts.tolist() == [0, 35, 47]
        assert step == len(values)
        return multi_scale_deformable_attn_pytorch(values, shapes, places, shares)

    monkeypatch.setattr('mmrest.backbones.gpvit_adapter.mmcv_operator', lambda: twin)
    monkeypatch.setattr(Tensor, 'is_cuda', True)
    parts = made()
    torch.testing.assert_close(sample(*parts), deformable_attention(*parts))
