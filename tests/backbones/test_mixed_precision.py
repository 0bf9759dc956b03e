"""Training in mixed precision, as on a GPU: forward under its autocast, backward outside."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmrest.ops import use_implementation
from tests.backbones.test_implementations import build, cases
from tests.gpu_autocast import gpu_dtypes


def test_norms_and_products_have_a_gpus_dtypes() -> None:
    x = torch.randn(2, 8)
    with gpu_dtypes(), torch.autocast('cpu', torch.bfloat16):
        product = nn.Linear(8, 8)(x)
        assert product.dtype == torch.bfloat16
        assert nn.LayerNorm(8)(product).dtype == torch.float32
        assert product.softmax(dim=1).dtype == torch.float32
    assert product.float().bfloat16().softmax(dim=1).dtype == torch.bfloat16


def maps_and_gradients(
    model: nn.Module, images: Tensor, directions: list[Tensor], amp: bool
) -> list[Tensor]:
    """Maps, and one vector of all gradients; the backward pass is outside, as mmengine's."""
    with torch.autocast('cpu', torch.bfloat16, enabled=amp):
        maps = model(images)
    loss = sum((m.to(d.dtype) * d).mean() for m, d in zip(maps, directions, strict=True))
    loss.backward()
    grads = [parameter.grad.flatten() for parameter in model.parameters()]
    model.zero_grad()
    return [*maps, torch.cat(grads)]


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('implementation', ['auto', 'blockwise', 'reference'])
@cases
def test_trains_under_a_gpus_autocast(case: str, implementation: str, with_cp: bool) -> None:
    torch.manual_seed(0)
    # statistics of a batch would make large numbers of roundings
    model = build(case, with_cp=with_cp).eval()
    images = torch.randn(2, 3, 65, 97)
    directions = [torch.randn(m.shape) for m in model(images)]
    exact = maps_and_gradients(model, images, directions, amp=False)
    with use_implementation(implementation), gpu_dtypes():
        rounded = maps_and_gradients(model, images, directions, amp=True)
    for a, b in zip(rounded, exact, strict=True):
        assert a.isfinite().all()
        assert torch.cosine_similarity(a.float().flatten(), b.flatten(), dim=0) > 0.98
