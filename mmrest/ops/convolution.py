"""Convolutions of token maps, which torch.compile takes as one node.

torch's own (2.13) have views and strides that the compiler does not foresee: it then takes a size
that varies for a constant in the backward pass, and compiles again for every other size. Outside of
a compiler this is ``F.conv2d``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mmrest.ops.autocast import as_autocast
from mmrest.ops.registration import register_operator
from mmrest.ops.tracing import is_exporting


def conv_tokens(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int
) -> Tensor:
    """``F.conv2d`` with the channels on the last axis.

    Args:
        x: (B, H, W, in_channels).
        weight: (out_channels, in_channels / groups, k, k).
        bias: (out_channels,).
        stride: Along both sides.
        padding: On all sides.
        groups: Of channels.

    Returns:
        (B, h, w, out_channels).
    """
    if torch.compiler.is_compiling() and not is_exporting():
        x, weight, bias = as_autocast(x, weight, bias)
        return torch.ops.mmrest.conv_tokens(x.contiguous(), weight, bias, stride, padding, groups)
    maps = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, padding, groups=groups)
    return maps.permute(0, 2, 3, 1)


def _conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int
) -> Tensor:
    maps = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, padding, groups=groups)
    return maps.permute(0, 2, 3, 1).contiguous()


def _conv_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: int,
    padding: int,
    groups: int,
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, the weight and the bias; those not needed have no elements."""
    maps, grad_maps = (t.permute(0, 3, 1, 2) for t in (x, grad))
    dx, dweight, dbias = torch.ops.aten.convolution_backward(
        *(grad_maps, maps, weight, [len(weight)], [stride] * 2, [padding] * 2, [1, 1]),
        *(False, [0, 0], groups, needed),
    )
    return (
        dx.permute(0, 2, 3, 1).contiguous() if needed[0] else x.new_empty(0),
        dweight.contiguous() if needed[1] else x.new_empty(0),
        dbias if needed[2] else x.new_empty(0),
    )


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, weight, _, *ctx.options = inputs
    ctx.save_for_backward(x, weight)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[:3]
    grads = torch.ops.mmrest.conv_tokens_backward(grad, *ctx.saved_tensors, *ctx.options, needed)
    return *(g if n else None for g, n in zip(grads, needed, strict=True)), None, None, None


def _fake_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int
) -> Tensor:
    height, width = ((side + 2 * padding - weight.shape[2]) // stride + 1 for side in x.shape[1:3])
    return x.new_empty(x.shape[0], height, width, weight.shape[0])


register_operator(
    'conv_tokens',
    _conv,
    '(Tensor x, Tensor weight, Tensor? bias, int stride, int padding, int groups) -> Tensor',
    _fake_conv,
    _differentiate,
    _save,
)
register_operator(
    'conv_tokens_backward',
    _conv_backward,
    '(Tensor grad, Tensor x, Tensor weight, int stride, int padding, int groups, '
    'bool[] needed) -> (Tensor, Tensor, Tensor)',
    lambda grad, x, weight, stride, padding, groups, needed: (
        x.new_empty(x.shape if needed[0] else 0),
        weight.new_empty(weight.shape if needed[1] else 0),
        weight.new_empty(weight.shape[0] if needed[2] else 0),
    ),
)


@register_flop_formula(torch.ops.mmrest.conv_tokens)
def _count(x: Any, weight: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


@register_flop_formula(torch.ops.mmrest.conv_tokens_backward)
def _count_backward(
    grad: Sequence[int], x: Any, weight: Sequence[int], *options: Any, **_: Any
) -> int:
    for_x, for_weight, _ = options[-1]
    return (for_x + for_weight) * 2 * math.prod(grad) * math.prod(weight[1:])
