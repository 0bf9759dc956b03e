"""The MLP of a transformer block, ``fc2(gelu(fc1(x)))``, as one operator; or with its LayerNorm.

It is computed in chunks of tokens, so that the wide hidden layer stays in the cache and is never in
memory as a whole; the backward pass computes each chunk's anew, which is faster than to store it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mmrest.ops.cpu.matmul import (
    add_matrix_product,
    as_columns,
    even_step,
    linear_in_blocks,
    multiply_matrices,
)
from mmrest.ops.registration import register_operator

# A chunk's hidden layer stays in the cache, unless that leaves too few tokens to make up for going
# through the weights and their gradients once a chunk;
# docs/scripts/ablation.py --constants tries others.
_CHUNK_ELEMENTS = 2**20
_FEWEST_TOKENS = 512


def mlp_in_chunks(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """See :func:`mmrest.ops.mlp`, and with ``eps`` :func:`mmrest.ops.normalized_mlp`."""
    rows, weights = x.reshape(-1, x.shape[-1]), (fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    out = torch.ops.mmrest.mlp(rows, *weights, norm_weight, norm_bias, eps)
    return out.view(*x.shape[:-1], len(fc2_weight))


def is_one_chunk(tokens: int, hidden_channels: int) -> bool:
    """True if the whole hidden layer stays in the cache: to store it then is faster."""
    return tokens * hidden_channels <= _CHUNK_ELEMENTS


def _chunks(hidden_channels: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors (n, ...) in views of as many tokens as a chunk has."""
    about = max(_FEWEST_TOKENS, _CHUNK_ELEMENTS // hidden_channels)
    step = even_step(len(tensors[0]), about)
    return zip(*(t.split(step) for t in tensors), strict=True)


def _normalize(
    rows: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float | None
) -> tuple[Tensor, ...]:
    """Rows behind the LayerNorm, if there is one, and its statistics."""
    if eps is None:
        return (rows,)
    return torch.native_layer_norm(rows, rows.shape[1:], weight, bias, eps)


def _forward(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    *norm: Any,
) -> Tensor:
    out = x.new_empty(len(x), len(fc2_weight))
    for rows, target in _chunks(len(fc1_weight), x, out):
        normalized = _normalize(rows, *norm)[0]
        hidden = linear_in_blocks(normalized, fc1_weight, fc1_bias, gelu=True)
        linear_in_blocks(hidden, fc2_weight, fc2_bias, memory=target)
    return out


def _backward(
    grad: Tensor,
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float | None,
    for_x: bool,
    for_weights: bool,
    for_norm: bool,
) -> list[Tensor]:
    """Gradients of x, fc1's weight and bias, fc2's and the norm's; others have no elements.

    The hidden layer is (hidden, n) here. All matmuls then go along the rows of their first matrix,
    and are faster for it than it costs to transpose what is small.
    """
    grad, hidden_channels, norm = grad.contiguous(), len(fc1_weight), (norm_weight, norm_bias)
    dx = torch.empty_like(x) if for_x else x.new_empty(0)
    totals = [x.new_empty(0) for _ in range(6)]
    if for_weights:
        shapes = (fc1_weight.shape, hidden_channels, fc2_weight.shape, grad.shape[1])
        totals[:4] = [x.new_zeros(shape) for shape in shapes]
        totals[2] = as_columns(totals[2])  # fc2's is transposed, too
    if for_norm:
        totals[4:] = [x.new_zeros(x.shape[1]) for _ in range(2)]
    fc1_t, fc2_t = as_columns(fc1_weight), as_columns(fc2_weight)
    for rows, grad_rows, target in _chunks(hidden_channels, x, grad, dx if for_x else x):
        normalized, *statistics = _normalize(rows, *norm, eps)
        hidden = multiply_matrices(fc1_weight, normalized.t())
        if fc1_bias is not None:
            hidden.add_(fc1_bias[:, None])
        dhidden = multiply_matrices(fc2_t, grad_rows.t())
        if for_weights:
            add_matrix_product(totals[2], F.gelu(hidden), grad_rows)
            totals[3].add_(grad_rows.sum(0))
        torch.ops.aten.gelu_backward.grad_input(dhidden, hidden, grad_input=dhidden)
        if for_weights:
            add_matrix_product(totals[0], dhidden, normalized)
            totals[1].add_(dhidden.sum(1))
        if eps is None and for_x:
            multiply_matrices(fc1_t, dhidden, target.t())
        elif eps is not None and (for_x or for_norm):
            dnormalized = multiply_matrices(fc1_t, dhidden, torch.empty_like(rows).t()).t()
            drows, *parts = torch.ops.aten.native_layer_norm_backward(
                *(dnormalized, rows, rows.shape[1:], *statistics, *norm),
                [for_x, for_norm and norm_weight is not None, for_norm and norm_bias is not None],
            )
            if for_x:
                target.copy_(drows)
            for total, part in zip(totals[4:], parts, strict=True):
                if part is not None:
                    total.add_(part)
    totals[2] = totals[2].t().contiguous()
    return [dx, *totals]


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, _, norm_weight, norm_bias, ctx.eps = inputs
    ctx.save_for_backward(*tensors, norm_weight, norm_bias)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad
    grads = torch.ops.mmrest.mlp_backward(
        grad, *ctx.saved_tensors, ctx.eps, needed[0], any(needed[1:5]), any(needed[5:7])
    )
    return *(g if n else None for g, n in zip(grads, needed[:7], strict=True)), None


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float | None,
    for_x: bool,
    for_weights: bool,
    for_norm: bool,
) -> list[Tensor]:
    shapes = (x.shape, fc1_weight.shape, fc1_weight.shape[:1], fc2_weight.shape, grad.shape[1:])
    shapes = *shapes, x.shape[1:], x.shape[1:]
    needed = (for_x, *[for_weights] * 4, *[for_norm] * 2)
    return [x.new_empty(s if n else 0) for s, n in zip(shapes, needed, strict=True)]


register_operator(
    'mlp',
    _forward,
    '(Tensor x, Tensor fc1_weight, Tensor? fc1_bias, Tensor fc2_weight, Tensor? fc2_bias, '
    'Tensor? norm_weight, Tensor? norm_bias, float? eps) -> Tensor',
    lambda x, fc1_weight, fc1_bias, fc2_weight, *_: x.new_empty(x.shape[0], fc2_weight.shape[0]),
    _differentiate,
    _save,
)
register_operator(
    'mlp_backward',
    _backward,
    '(Tensor grad, Tensor x, Tensor fc1_weight, Tensor? fc1_bias, Tensor fc2_weight, '
    'Tensor? norm_weight, Tensor? norm_bias, float? eps, bool for_x, bool for_weights, '
    'bool for_norm) -> Tensor[]',
    _fake_backward,
)


@register_flop_formula(torch.ops.mmrest.mlp)
def _count(
    x: Sequence[int], fc1: Sequence[int], fc1_bias: Any, fc2: Sequence[int], *_: Any, **__: Any
) -> int:
    return 2 * x[0] * fc1[0] * (fc1[1] + fc2[0])


@register_flop_formula(torch.ops.mmrest.mlp_backward)
def _count_backward(
    grad: Any,
    x: Sequence[int],
    fc1: Sequence[int],
    fc1_bias: Any,
    fc2: Sequence[int],
    *options: Any,
    **_: Any,
) -> int:
    for_x, for_weights, for_norm = options[-3:]
    layer1, layer2 = 2 * x[0] * fc1[0] * fc1[1], 2 * x[0] * fc1[0] * fc2[0]
    # fc1 again and the hidden layer's gradient; then what is asked for
    needed = (for_x or for_norm) * layer1 + for_weights * (layer1 + layer2)
    return layer1 + layer2 + needed
