"""A linear layer by oneDNN, as an operator of torch with gradients and a FLOP count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, register_flop_formula

from mmrest.ops.cpu import matmul
from mmrest.ops.registration import register_operator


def linear_by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """See :func:`mmrest.ops.linear`."""
    rows = x.reshape(-1, x.shape[-1])
    return torch.ops.mmrest.linear(rows, weight, bias).view(*x.shape[:-1], len(weight))


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, for_x: bool, for_weight: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight; those not asked for have no elements."""
    grad = grad.contiguous()
    dx, dweight = grad.new_empty(0), grad.new_empty(0)
    if for_x:
        dx = matmul.multiply_matrices(grad, weight)
    if for_weight:
        dweight = torch.zeros_like(weight)
        matmul.add_weight_gradient(dweight, grad, x)
    return dx, dweight


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    for_x, for_weight, for_bias = ctx.needs_input_grad
    dx, dweight = torch.ops.mmrest.linear_backward(grad, *ctx.saved_tensors, for_x, for_weight)
    return (
        dx if for_x else None,
        dweight if for_weight else None,
        grad.sum(0) if for_bias else None,
    )


register_operator(
    'linear',
    matmul.multiply_by_onednn,
    '(Tensor x, Tensor weight, Tensor? bias) -> Tensor',
    lambda x, weight, bias: x.new_empty(x.shape[0], weight.shape[0]),
    _differentiate,
    _save,
)
register_operator(
    'linear_backward',
    _backward,
    '(Tensor grad, Tensor x, Tensor weight, bool for_x, bool for_weight) -> (Tensor, Tensor)',
    lambda grad, x, weight, for_x, for_weight: (
        x.new_empty(x.shape if for_x else 0),
        weight.new_empty(weight.shape if for_weight else 0),
    ),
)


_counted = [torch.ops.mmrest.linear]
if matmul.HAS_ONEDNN and torch.ops.mkldnn._linear_pointwise not in flop_registry:
    # torch.compile's linear layers, of which torch counts nothing
    _counted.append(torch.ops.mkldnn._linear_pointwise)


@register_flop_formula(_counted)
def _count(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * x[0] * weight[0] * weight[1]


@register_flop_formula(torch.ops.mmrest.linear_backward)
def _count_backward(
    grad: Any, x: Sequence[int], weight: Any, for_x: bool, for_weight: bool, **_: Any
) -> int:
    return (for_x + for_weight) * _count(x, weight)
