"""The MLP of a transformer block, ``fc2(gelu(fc1(x)))``, as one operator.

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
    multiply_by_onednn,
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
) -> Tensor:
    """See :func:`mmrest.ops.mlp`."""
    rows = x.reshape(-1, x.shape[-1])
    out = torch.ops.mmrest.mlp(rows, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    return out.view(*x.shape[:-1], len(fc2_weight))


def is_one_chunk(tokens: int, hidden_channels: int) -> bool:
    """True if the whole hidden layer stays in the cache: to store it then is faster."""
    return tokens * hidden_channels <= _CHUNK_ELEMENTS


def _chunks(hidden_channels: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors (n, ...) in views of as many tokens as a chunk has."""
    about = max(_FEWEST_TOKENS, _CHUNK_ELEMENTS // hidden_channels)
    step = even_step(len(tensors[0]), about)
    return zip(*(t.split(step) for t in tensors), strict=True)


def _forward(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
) -> Tensor:
    out = x.new_empty(len(x), len(fc2_weight))
    for rows, target in _chunks(len(fc1_weight), x, out):
        hidden = multiply_by_onednn(rows, fc1_weight, fc1_bias, gelu=True)
        target.copy_(multiply_by_onednn(hidden, fc2_weight, fc2_bias))
    return out


def _backward(
    grad: Tensor,
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    for_x: bool,
    for_weights: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, fc1's weight and bias, and fc2's; those not asked for have no elements.

    The hidden layer is (hidden, n) here. All matmuls then go along the rows of their first matrix,
    and are faster for it than it costs to transpose what is small.
    """
    grad, hidden_channels = grad.contiguous(), len(fc1_weight)
    dx = torch.empty_like(x) if for_x else x.new_empty(0)
    totals = [x.new_empty(0) for _ in range(4)]
    if for_weights:
        shapes = (fc1_weight.shape, hidden_channels, fc2_weight.shape, grad.shape[1])
        totals = [x.new_zeros(shape) for shape in shapes]
        totals[2] = as_columns(totals[2])  # fc2's is transposed, too
    fc1_t, fc2_t = as_columns(fc1_weight), as_columns(fc2_weight)
    targets = dx if for_x else x
    for rows, grad_rows, target in _chunks(hidden_channels, x, grad, targets):
        hidden = multiply_matrices(fc1_weight, rows.t())
        if fc1_bias is not None:
            hidden.add_(fc1_bias[:, None])
        dhidden = multiply_matrices(fc2_t, grad_rows.t())
        if for_weights:
            add_matrix_product(totals[2], F.gelu(hidden), grad_rows)
            totals[3].add_(grad_rows.sum(0))
        torch.ops.aten.gelu_backward.grad_input(dhidden, hidden, grad_input=dhidden)
        if for_weights:
            add_matrix_product(totals[0], dhidden, rows)
            totals[1].add_(dhidden.sum(1))
        if for_x:
            multiply_matrices(fc1_t, dhidden, target.t())
    totals[2] = totals[2].t().contiguous()
    return dx, *totals


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    for_x, *for_weights = ctx.needs_input_grad
    grads = torch.ops.mmrest.mlp_backward(grad, *ctx.saved_tensors, for_x, any(for_weights))
    return tuple(
        g if needed else None for g, needed in zip(grads, ctx.needs_input_grad, strict=True)
    )


def _fake_backward(
    grad: Tensor,
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    for_x: bool,
    for_weights: bool,
) -> tuple[Tensor, ...]:
    shapes = (x.shape, fc1_weight.shape, fc1_weight.shape[:1], fc2_weight.shape, grad.shape[1:])
    needed = (for_x, *[for_weights] * 4)
    return tuple(x.new_empty(s if n else 0) for s, n in zip(shapes, needed, strict=True))


register_operator(
    'mlp',
    _forward,
    '(Tensor x, Tensor fc1_weight, Tensor? fc1_bias, Tensor fc2_weight, Tensor? fc2_bias)'
    ' -> Tensor',
    lambda x, fc1_weight, fc1_bias, fc2_weight, fc2_bias: x.new_empty(
        x.shape[0], fc2_weight.shape[0]
    ),
    _differentiate,
    _save,
)
register_operator(
    'mlp_backward',
    _backward,
    '(Tensor grad, Tensor x, Tensor fc1_weight, Tensor? fc1_bias, Tensor fc2_weight, '
    'bool for_x, bool for_weights) -> (Tensor, Tensor, Tensor, Tensor, Tensor)',
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
    for_x: bool,
    for_weights: bool,
    **_: Any,
) -> int:
    layer1, layer2 = 2 * x[0] * fc1[0] * fc1[1], 2 * x[0] * fc1[0] * fc2[0]
    # fc1 again and the hidden layer's gradient; then what is asked for
    return layer1 + layer2 + for_x * layer1 + for_weights * (layer1 + layer2)
