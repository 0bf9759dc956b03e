"""docs/scripts/ablation.py: what it switches off is there, and is worth nothing but speed."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from mmrest import PVTV2, MViTV2, ResT
from tests.conftest import ROOT


@pytest.fixture
def ablation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / 'docs/scripts'))
    monkeypatch.delitem(sys.modules, 'ablation', raising=False)
    import ablation

    return ablation


def step(model: nn.Module) -> tuple[Tensor, Tensor]:
    """The maps and the gradients of all parameters, each as one vector.

    Some gradients are zeros, and one by one nothing but rounding.
    """
    torch.manual_seed(0)
    maps = model(torch.randn(1, 3, 45, 70))
    torch.manual_seed(1)
    loss = sum((level * torch.randn_like(level)).sum() for level in maps)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    return tuple(torch.cat([t.flatten() for t in group]) for group in (maps, grads))


@pytest.mark.parametrize('family', [MViTV2, ResT, PVTV2], ids=lambda family: family.__name__)
def test_tricks_change_no_result(family: type[nn.Module], ablation: ModuleType) -> None:
    torch.manual_seed(0)
    model = family().eval()
    expected = step(model)
    for trick, (_, _, families) in ablation.TRICKS.items():
        if not family.__name__.startswith(families):
            continue
        with pytest.MonkeyPatch.context() as patch:
            ablation.set_attribute = patch.setattr
            ablation.prepare(trick)
            found = step(model)
        for actual, value in zip(found, expected, strict=True):
            assert (actual - value).norm() <= 1e-2 * value.norm(), trick


def test_constants_are_there(ablation: ModuleType) -> None:
    tried = ablation.variants_of('ResT', 'infer', constants=True)
    assert len(tried) == 2 * len(ablation.CONSTANTS)
