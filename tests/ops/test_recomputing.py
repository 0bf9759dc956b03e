"""What is computed twice is what would have been kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import prune

from mmrest.backbones import MViTV2
from mmrest.errors import InputError
from mmrest.ops import use_implementation
from mmrest.ops.dispatch import requested
from mmrest.ops.recomputing import recompute


def function(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.gelu(F.linear(x, weight, bias))


def test_all_gradients_are_those_of_the_function() -> None:
    x, weight, bias = (torch.randn(shape, requires_grad=True) for shape in ((3, 4), (6, 4), (6,)))
    direction = torch.randn(3, 6)
    for given in ((x, weight, bias), (x, weight, None), (x.detach(), weight, bias.detach())):
        needed = [t for t in given if t is not None and t.requires_grad]
        again, expected = recompute(function, *given), function(*given)
        assert torch.equal(again, expected)
        for actual, wanted in zip(
            torch.autograd.grad(again, needed, direction),
            torch.autograd.grad(expected, needed, direction),
            strict=True,
        ):
            torch.testing.assert_close(actual, wanted)


def test_what_was_changed_in_between_is_an_error() -> None:
    x, weight = torch.randn(3, 4), torch.randn(6, 4, requires_grad=True)
    out = recompute(function, x, weight, None)
    with torch.no_grad():
        weight.mul_(3)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        out.sum().backward()


def test_it_is_computed_by_the_same_implementation_later() -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(requested())
        return 2 * x

    x = torch.ones(1, requires_grad=True)
    with use_implementation('blockwise'):
        out = recompute(function, x)
    out.backward()
    assert seen == ['blockwise'] * 2


def test_a_second_derivative_is_refused() -> None:
    x = torch.ones(1, requires_grad=True)
    out = recompute(torch.exp, x)
    with pytest.raises(InputError, match='no second derivatives'):
        torch.autograd.grad(out, x, create_graph=True)


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


CHANGES: dict[str, Callable[[nn.Module], Any]] = {
    'nothing': lambda attn: None,
    **{
        f'a hook on {name}': lambda attn, name=name: attn.get_submodule(name).register_forward_hook(
            lambda *_: None
        )
        for name in ('qkv', 'q_pool', 'k_pool', 'v_pool', 'k_pool.conv', 'v_pool.norm')
    },
    'a pruned kernel': lambda attn: prune.l1_unstructured(attn.k_pool.conv, 'weight', 0.3),
    'a scaled gradient': lambda attn: attn.qkv.weight.register_hook(lambda grad: 0.5 * grad),
    'a scaled gradient of a kernel': lambda attn: attn.v_pool.conv.weight.register_hook(
        lambda grad: 0.5 * grad
    ),
    'a frozen norm': lambda attn: attn.k_pool.norm.requires_grad_(False),
}


@pytest.mark.parametrize('change', CHANGES)
def test_whatever_is_done_to_a_part_it_is_the_literal_form(change: str) -> None:
    """One part alone is no longer computed as the others are."""
    model = MViTV2(arch='tiny', drop_path_rate=0.0)
    for block in model.stages[1].blocks:
        CHANGES[change](block.attn)
    images, results = torch.randn(1, 3, 64, 96), []
    for implementation in ('auto', 'reference'):
        model.zero_grad()
        with use_implementation(implementation):
            levels = model(images)
            sum(level.square().mean() for level in levels).backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append((levels, grads))
    (levels, grads), (literal, wanted) = results
    for actual, expected in zip(levels, literal, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
    assert grads.keys() == wanted.keys()
    for name, grad in grads.items():
        scale = wanted[name].abs().max().clamp(min=1e-6)
        assert (grad - wanted[name]).abs().max() < 1e-3 * scale + 1e-6, name


def test_given_parameters_have_their_gradients() -> None:
    model = MViTV2(arch='tiny', drop_path_rate=0.0)
    given = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    functional_call(model, given, (torch.randn(1, 3, 64, 64),))[3].sum().backward()
    assert given['stages.1.blocks.0.attn.qkv.weight'].grad.abs().sum() > 0
    assert model.stages[1].blocks[0].attn.qkv.weight.grad is None


def test_a_weight_that_is_computed_passes_its_gradient_on() -> None:
    attn = MViTV2(arch='tiny').stages[1].blocks[0].attn
    scale, weight = torch.ones(1, requires_grad=True), attn.qkv.weight.detach()
    del attn.qkv.weight
    attn.qkv.weight = scale * weight
    attn(torch.randn(1, 64, weight.shape[1]), (8, 8)).square().sum().backward()
    assert scale.grad.abs() > 0
