"""The MLP of a transformer block and its shortcut, ``x + fc2(gelu(fc1(layer_norm(x))))``.

On a processor it is computed in chunks of tokens, so that the wide hidden layer stays in the cache
and is never in memory as a whole; the backward pass computes each chunk's anew, which is faster
than to store it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mmrest.ops.products import even_step, linear, multiply_by_onednn, prefers_onednn
from mmrest.ops.ways import requested_way

# A chunk's hidden layer stays in the cache, unless that leaves too few tokens to make up for going
# through the weights and their gradients once a chunk.
_CHUNK_ELEMENTS = 2**20
_FEWEST_TOKENS = 512


class MLPWeights(NamedTuple):
    """Weights of the branch: LayerNorm (C,), fc1 (hidden, C), fc2 (C, hidden), and biases."""

    norm_weight: Tensor
    norm_bias: Tensor
    fc1_weight: Tensor
    fc1_bias: Tensor
    fc2_weight: Tensor
    fc2_bias: Tensor


def add_branch(x: Tensor, branch: Tensor, kept: Tensor | None) -> Tensor:
    """``x + branch * kept``, going through them once; without ``kept``, ``x + branch``."""
    if kept is None:
        return x + branch
    if branch.dtype != x.dtype or requested_way() == 'reference':
        return x + branch * kept
    return torch.addcmul(x, branch, kept)


def add_norm_mlp(x: Tensor, weights: MLPWeights, eps: float, kept: Tensor | None = None) -> Tensor:
    """``x + fc2(gelu(fc1(layer_norm(x)))) * kept``.

    Args:
        x: (B, ..., C). Without gradients it may be overwritten.
        weights: Of the branch.
        eps: Of the LayerNorm.
        kept: Factor of each sample's branch, (B, 1, ..., 1).

    Returns:
        (B, ..., C).
    """
    empty = not torch.compiler.is_compiling() and not x.numel()
    if empty or not prefers_onednn(x):
        norm_weight, norm_bias, *linears = weights
        normed = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
        return add_branch(x, linear(linear(normed, *linears[:2], gelu=True), *linears[2:]), kept)
    rows = x.reshape(-1, x.shape[-1])
    factors = None if kept is None else kept.expand(*x.shape[:-1], 1).reshape(-1, 1)
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not x.is_contiguous():
        return torch.ops.mmrest.add_norm_mlp(rows, *weights, factors, eps).view(x.shape)
    _add(rows, weights, factors, eps, rows)
    return x


def _chunks(
    weights: MLPWeights, factors: Tensor | None, *tensors: Tensor
) -> Iterator[tuple[Any, ...]]:
    """Of each chunk its factors, if there are any, and the views of the tensors (n, C)."""
    about = max(_FEWEST_TOKENS, _CHUNK_ELEMENTS // len(weights.fc1_weight))
    step = even_step(len(tensors[0]), about)
    views = [t.split(step) for t in tensors]
    none = [None] * len(views[0])
    return zip(none if factors is None else factors.split(step), *views, strict=True)


def _is_dropped(factors: Tensor | None) -> bool:
    """Whether the branch of all these tokens is multiplied by 0, and need not be computed."""
    return factors is not None and not factors.any()


def _add(x: Tensor, weights: MLPWeights, factors: Tensor | None, eps: float, out: Tensor) -> None:
    """The shortcut and its branch, written into ``out``, which may be ``x``."""
    channels = x.shape[-1:]
    for factor, rows, target in _chunks(weights, factors, x, out):
        if _is_dropped(factor):
            target.copy_(rows)
            continue
        normed = F.layer_norm(rows, channels, weights.norm_weight, weights.norm_bias, eps)
        hidden = multiply_by_onednn(normed, weights.fc1_weight, weights.fc1_bias, gelu=True)
        branch = multiply_by_onednn(hidden, weights.fc2_weight, weights.fc2_bias)
        if factor is None:
            torch.add(rows, branch, out=target)
        else:
            torch.addcmul(rows, branch, factor, out=target)


def _forward(x: Tensor, *given: Any) -> Tensor:
    out = torch.empty_like(x)
    _add(x, MLPWeights(*given[:6]), *given[6:], out)
    return out


def _backward(grad: Tensor, x: Tensor, *given: Any) -> tuple[Tensor, ...]:
    weights, factors, eps = MLPWeights(*given[:6]), *given[6:]
    grad = grad.contiguous()
    dx = torch.empty_like(x)
    totals = MLPWeights(*(torch.zeros_like(t) for t in weights))
    # fc2's gradient is transposed, too
    totals = totals._replace(fc2_weight=torch.zeros_like(weights.fc1_weight))
    transposed = weights.fc1_weight.t().contiguous(), weights.fc2_weight.t().contiguous()
    for factor, rows, grad_rows, target in _chunks(weights, factors, x, grad, dx):
        if _is_dropped(factor):
            target.copy_(grad_rows)
            continue
        of_branch = grad_rows if factor is None else grad_rows * factor
        through = _differentiate(rows, of_branch, weights, transposed, eps, totals)
        torch.add(grad_rows, through, out=target)
    return dx, *totals._replace(fc2_weight=totals.fc2_weight.t().contiguous())


def _differentiate(
    x: Tensor,
    grad: Tensor,
    weights: MLPWeights,
    transposed: tuple[Tensor, Tensor],
    eps: float,
    totals: MLPWeights,
) -> Tensor:
    """The gradient of a chunk (n, C) through its branch; those of the weights go to ``totals``.

    ``transposed`` are the weights of fc1 (C, hidden) and of fc2 (hidden, C). ``totals`` holds fc2's
    gradient as (hidden, C), too.

    The hidden layer is (hidden, n) here. All products then go along the rows of their first matrix,
    and are faster for it than it costs to transpose what is small.
    """
    channels = x.shape[-1:]
    affine = weights.norm_weight, weights.norm_bias
    normed, mean, rstd = torch.native_layer_norm(x, channels, *affine, eps)
    hidden = multiply_by_onednn(weights.fc1_weight, normed).add_(weights.fc1_bias[:, None])
    totals.fc2_weight.add_(multiply_by_onednn(F.gelu(hidden), grad.t()))
    totals.fc2_bias.add_(grad.sum(0))
    dhidden = multiply_by_onednn(transposed[1], grad)
    torch.ops.aten.gelu_backward.grad_input(dhidden, hidden, grad_input=dhidden)
    totals.fc1_weight.add_(multiply_by_onednn(dhidden, normed.t()))
    totals.fc1_bias.add_(dhidden.sum(1))
    dnormed = multiply_by_onednn(transposed[0], dhidden.t()).t().contiguous()
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
    return *torch.ops.mmrest.add_norm_mlp_backward(grad, *ctx.saved_tensors, ctx.eps), None, None


_INPUTS = 'Tensor x, ' + ', '.join(f'Tensor {name}' for name in MLPWeights._fields)
_INPUTS += ', Tensor? factors, float eps'
_operator = torch.library.custom_op(
    'mmrest::add_norm_mlp', _forward, mutates_args=(), schema=f'({_INPUTS}) -> Tensor'
)
_operator.register_fake(lambda x, *_: torch.empty_like(x))
_operator.register_autograd(_take_gradients, setup_context=_save)
_backward_operator = torch.library.custom_op(
    'mmrest::add_norm_mlp_backward',
    _backward,
    mutates_args=(),
    schema=f'(Tensor grad, {_INPUTS}) -> ({", ".join(["Tensor"] * 7)})',
)
_backward_operator.register_fake(
    lambda grad, *inputs: tuple(torch.empty_like(t) for t in inputs[:7])
)


@register_flop_formula(torch.ops.mmrest.add_norm_mlp)
def _count(x: Sequence[int], *inputs: Any, **_: Any) -> int:
    hidden, channels = inputs[2]
    return 4 * x[0] * hidden * channels


@register_flop_formula(torch.ops.mmrest.add_norm_mlp_backward)
def _count_backward(grad: Any, *inputs: Any, **_: Any) -> int:
    return _count(*inputs) * 5 // 2  # fc1 again, and two products for each layer
