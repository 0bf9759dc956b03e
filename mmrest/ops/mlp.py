"""The MLP branch of a transformer block, ``fc2(gelu(fc1(layer_norm(x))))``.

On a processor it is computed in chunks of tokens, so that the wide hidden layer stays in the cache
and is never in memory as a whole; the backward pass computes each chunk's anew, which is faster
than to store it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mmrest.ops.products import (
    add_weight_gradient,
    even_step,
    linear,
    multiply_by_onednn,
    prefers_onednn,
)

# A chunk's hidden layer stays in the cache, unless that leaves too few tokens to make up for going
# through the weights and their gradients once a chunk.
_CHUNK_ELEMENTS = 2**20
_FEWEST_TOKENS = 1024


class MLPWeights(NamedTuple):
    """Weights of the branch: LayerNorm (C,), fc1 (hidden, C), fc2 (C, hidden), and biases."""

    norm_weight: Tensor
    norm_bias: Tensor
    fc1_weight: Tensor
    fc1_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor


def norm_mlp(x: Tensor, weights: MLPWeights, eps: float) -> Tensor:
    """The branch, without a shortcut.

    Args:
        x: (..., C).
        weights: Of the branch.
        eps: Of the LayerNorm.

    Returns:
        (..., C).
    """
    if prefers_onednn(x):
        return torch.ops.mmrest.norm_mlp(x.reshape(-1, x.shape[-1]), *weights, eps).view(x.shape)
    norm_weight, norm_bias, *linears = weights
    x = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
    return linear(linear(x, *linears[:2], gelu=True), *linears[2:])


def add_norm_mlp_(x: Tensor, weights: MLPWeights, eps: float) -> Tensor:
    """``x + norm_mlp(x)``; without gradients ``x`` may be overwritten."""
    in_place = prefers_onednn(x) and x.is_contiguous() and not torch.compiler.is_compiling()
    if torch.is_grad_enabled() or not in_place:
        return x + norm_mlp(x, weights, eps)
    for rows in _chunks(x.view(-1, x.shape[-1]), weights):
        rows += _branch(rows, weights, eps)
    return x


def _chunks(x: Tensor, weights: MLPWeights) -> tuple[Tensor, ...]:
    """Views of the tokens (n, C)."""
    about = max(_FEWEST_TOKENS, _CHUNK_ELEMENTS // len(weights.fc1_weight))
    return x.split(even_step(len(x), about))


def _branch(x: Tensor, weights: MLPWeights, eps: float) -> Tensor:
    normed = F.layer_norm(x, x.shape[-1:], weights.norm_weight, weights.norm_bias, eps)
    hidden = multiply_by_onednn(normed, weights.fc1_weight, weights.fc1_bias, gelu=True)
    return multiply_by_onednn(hidden, weights.fc2_weight, weights.fc2_bias)


def _forward(x: Tensor, *given: Any) -> Tensor:
    weights, eps = MLPWeights(*given[:6]), given[6]
    out = torch.empty_like(x)
    for rows, target in zip(_chunks(x, weights), _chunks(out, weights), strict=True):
        target.copy_(_branch(rows, weights, eps))
    return out


def _backward(grad: Tensor, x: Tensor, *given: Any) -> tuple[Tensor, ...]:
    weights, eps = MLPWeights(*given[:6]), given[6]
    grad = grad.contiguous()
    dx = torch.empty_like(x)
    totals = MLPWeights(*(torch.zeros_like(t) for t in weights))
    for rows, grad_rows, target in zip(*(_chunks(t, weights) for t in (x, grad, dx)), strict=True):
        target.copy_(_differentiate(rows, grad_rows, weights, eps, totals))
    totals.fc2_bias.add_(grad.sum(0))
    return dx, *totals


def _differentiate(
    x: Tensor, grad: Tensor, weights: MLPWeights, eps: float, totals: MLPWeights
) -> Tensor:
    """The gradient of a chunk (n, C); those of the weights, but fc2's bias, go to ``totals``."""
    channels = x.shape[-1:]
    affine = weights.norm_weight, weights.norm_bias
    normed, mean, rstd = torch.native_layer_norm(x, channels, *affine, eps)
    hidden = multiply_by_onednn(normed, weights.fc1_weight, weights.fc1_bias)
    add_weight_gradient(totals.fc2_weight, grad, F.gelu(hidden))
    dhidden = multiply_by_onednn(grad, weights.fc2_weight.t())
    dhidden = torch.ops.aten.gelu_backward(dhidden, hidden)
    add_weight_gradient(totals.fc1_weight, dhidden, normed)
    totals.fc1_bias.add_(dhidden.sum(0))
    dnormed = multiply_by_onednn(dhidden, weights.fc1_weight.t())
    dx, dweight, dbias = torch.ops.aten.native_layer_norm_backward(
        dnormed, x, channels, mean, rstd, *affine, [True, True, True]
    )
    totals.norm_weight.add_(dweight)
    totals.norm_bias.add_(dbias)
    return dx


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _take_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.mmrest.norm_mlp_backward(grad, *ctx.saved_tensors, ctx.eps), None


_TENSORS = 'Tensor x, ' + ', '.join(f'Tensor {name}' for name in MLPWeights._fields)
_operator = torch.library.custom_op(
    'mmrest::norm_mlp', _forward, mutates_args=(), schema=f'({_TENSORS}, float eps) -> Tensor'
)
_operator.register_fake(lambda x, *_: torch.empty_like(x))
_operator.register_autograd(_take_gradients, setup_context=_save)
_backward_operator = torch.library.custom_op(
    'mmrest::norm_mlp_backward',
    _backward,
    mutates_args=(),
    schema=f'(Tensor grad, {_TENSORS}, float eps) -> ({", ".join(["Tensor"] * 7)})',
)
_backward_operator.register_fake(
    lambda grad, *inputs: tuple(torch.empty_like(t) for t in inputs[:7])
)


@register_flop_formula(torch.ops.mmrest.norm_mlp)
def _count(x: Sequence[int], *weights: Any, **_: Any) -> int:
    hidden, channels = weights[2]
    return 4 * x[0] * hidden * channels


@register_flop_formula(torch.ops.mmrest.norm_mlp_backward)
def _count_backward(grad: Any, *inputs: Any, **_: Any) -> int:
    return _count(*inputs) * 5 // 2  # fc1 again, and two products for each layer
