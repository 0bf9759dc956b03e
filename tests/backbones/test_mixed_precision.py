"""Training in mixed precision, as on a GPU: forward under its autocast, backward outside."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmrest.ops import use_implementation
from tests.backbones.test_implementations import build, cases
from tests.gpu_autocast import gpu_autocast


def test_norms_and_products_have_a_gpus_dtypes() -> None:
    x = torch.randn(2, 8)
    with gpu_autocast():
        product = nn.Linear(8, 8)(x)
        assert product.dtype == torch.bfloat16
        assert nn.LayerNorm(8)(product).dtype == torch.float32
        assert product.softmax(dim=1).dtype == torch.float32
    assert product.float().bfloat16().softmax(dim=1).dtype == torch.bfloat16


def maps_and_gradients(model: nn.Module, images: Tensor, directions: list[Tensor]) -> list[Tensor]:
    """Maps, and one vector of all gradients."""
    maps = model(images)
    loss = sum((m.to(d.dtype) * d).mean() for m, d in zip(maps, directions, strict=True))
    with torch.autocast('cpu', enabled=False):  # as mmengine's AmpOptimWrapper
        grads = torch.autograd.grad(loss, list(model.parameters()))
    return [*maps, torch.cat([grad.flatten() for grad in grads])]


@pytest.mark.parametrize('implementation', ['auto', 'blockwise', 'reference'])
@cases
def test_trains_under_a_gpus_autocast(case: str, implementation: str) -> None:
    torch.manual_seed(0)
    # statistics of a batch would make large numbers of roundings
    model = build(case).eval()
    images = torch.randn(2, 3, 65, 97)
    directions = [torch.randn(m.shape) for m in model(images)]
    exact = maps_and_gradients(model, images, directions)
    with use_implementation(implementation), gpu_autocast():
        rounded = maps_and_gradients(model, images, directions)
    for a, b in zip(rounded, exact, strict=True):
        assert a.isfinite().all()
        assert torch.cosine_similarity(a.float().flatten(), b.flatten(), dim=0) > 0.98
