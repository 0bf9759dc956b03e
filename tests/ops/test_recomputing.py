"""What is computed twice is what would have been kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmrest.backbones import MViTV2
from mmrest.ops import use_implementation
from mmrest.ops.dispatch import requested
from mmrest.ops.recomputing import recompute


def test_all_gradients_are_those_of_the_function() -> None:
    layers = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.LayerNorm(6))
    layers[0].bias.requires_grad_(False)
    x = torch.randn(3, 4, requires_grad=True)
    direction = torch.randn(3, 6)
    needed = [x, *(p for p in layers.parameters() if p.requires_grad)]
    again = recompute(layers, x, list(layers.parameters()))
    assert torch.equal(again, layers(x))
    for actual, expected in zip(
        torch.autograd.grad(again, needed, direction),
        torch.autograd.grad(layers(x), needed, direction),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected)


def test_an_input_without_a_gradient_has_none() -> None:
    layer = nn.Linear(4, 6)
    recompute(layer, torch.ones(3, 4), list(layer.parameters())).sum().backward()
    assert torch.equal(layer.weight.grad, torch.full((6, 4), 3.0))


def test_it_is_computed_by_the_same_implementation_later() -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(requested())
        return 2 * x

    x = torch.ones(1, requires_grad=True)
    with use_implementation('blockwise'):
        out = recompute(function, x, [])
    out.backward()
    assert seen == ['blockwise'] * 2


def test_a_second_derivative_is_refused() -> None:
    x = torch.ones(1, requires_grad=True)
    out = recompute(torch.exp, x, [])
    (grad,) = torch.autograd.grad(out, x, create_graph=True)
    with pytest.raises(RuntimeError, match='does not require grad'):
        grad.backward()


def kept_bytes(model: nn.Module, images: Tensor) -> int:
    """Of all that a forward pass keeps for gradients, beside the parameters."""
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        alive.append(x)
        return x

    alive: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        model(images)
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(kept.values())


@pytest.mark.parametrize('attention', ['hwin', 'pooling'])
def test_pooling_attention_keeps_less_than_half_of_the_literal_form(attention: str) -> None:
    model = MViTV2(arch='tiny', attention=attention)
    images = torch.randn(1, 3, 320, 448)
    ours = kept_bytes(model, images)
    with use_implementation('reference'):
        literal = kept_bytes(model, images)
    assert ours < 0.45 * literal


class CountsCalls(nn.LayerNorm):
    """What a user may put in a norm's place."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) -> the same shape."""
        self.calls += 1
        return super().forward(x)


@pytest.mark.parametrize('hooked', [False, True])
def test_what_is_not_known_is_called_once(hooked: bool) -> None:
    model = MViTV2(arch='tiny')
    pool = model.stages[1].blocks[0].attn.k_pool
    calls = []
    if hooked:
        pool.norm.register_forward_hook(lambda *_: calls.append(1))
    else:
        pool.norm = CountsCalls(*pool.norm.normalized_shape)
    sum(level.sum() for level in model(torch.randn(1, 3, 64, 64))).backward()
    assert len(calls) + getattr(pool.norm, 'calls', 0) == 1
