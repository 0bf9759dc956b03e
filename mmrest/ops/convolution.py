"""Convolutions of token maps, and strided ones with a faster gradient on a processor.

The gradient of a strided convolution's weights: oneDNN's own for channels-last maps gathers single
strided pixels; here, patches are laid out as rows, a few rows of the map at a time so that they
stay in the cache, and multiplied.

While compiling, a convolution of tokens is an operator of its own. torch's (2.13) has views and
strides that the compiler does not foresee: it then takes a size that varies for a constant in the
backward pass, and compiles again for every other size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mmrest.ops.products import is_saving_only, multiply_by_onednn, prefers_onednn

# Elements of the patches that are laid out at a time.
_CHUNK_ELEMENTS = 2**20
# With fewer channels a patch is too short to be copied quickly.
_FEWEST_CHANNELS = 16


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
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        if torch.is_autocast_enabled(x.device.type):  # knows torch's own operators alone
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight, bias = (t if t is None else t.to(dtype) for t in (x, weight, bias))
        return torch.ops.mmrest.conv_tokens(x.contiguous(), weight, bias, stride, padding, groups)
    maps = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, padding, groups=groups)
    return maps.permute(0, 2, 3, 1)


def strided_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
) -> Tensor:
    """``F.conv2d`` with a square kernel that overlaps or touches (kernel size >= stride).

    Args:
        x: (B, in_channels, H, W).
        weight: (out_channels, in_channels, k, k).
        bias: (out_channels,).
        stride: Along both sides.
        padding: On all sides.

    Returns:
        (B, out_channels, h, w).
    """
    worthwhile = prefers_onednn(x) and x.shape[1] >= _FEWEST_CHANNELS and weight.requires_grad
    if not worthwhile or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.conv2d(x, weight, bias, stride, padding)
    return _StridedConv.apply(x, weight, bias, stride, padding)


class _StridedConv(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        if is_saving_only():
            return x.new_empty(0)
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias, *_ = ctx.needs_input_grad
        dx = dweight = None
        if for_x:
            dx = torch.ops.aten.convolution_backward(
                *(grad, x, weight, None, [ctx.stride] * 2, [ctx.padding] * 2, [1, 1]),
                *(False, [0, 0], 1, [True, False, False]),
            )[0]
        if for_weight:
            dweight = _weight_gradient(grad, x, weight.shape[-1], ctx.stride, ctx.padding)
        return dx, dweight, grad.sum((0, 2, 3)) if for_bias else None, None, None


def _weight_gradient(grad: Tensor, x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """(out_channels, in_channels, kernel, kernel), from (B, out_channels, h, w) and the input."""
    in_channels, out_channels = x.shape[1], grad.shape[1]
    total = x.new_zeros(out_channels, kernel * kernel * in_channels)
    for image, grad_image in zip(x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1), strict=True):
        size = grad_image.shape[:2]
        for rows, patches in _patches(image, size, kernel, stride, padding):
            grad_rows = grad_image[rows].reshape(-1, out_channels)
            total += multiply_by_onednn(grad_rows.t(), patches.t())
    total = total.view(out_channels, kernel, kernel, in_channels)
    return total.permute(0, 3, 1, 2).contiguous()


def _patches(
    image: Tensor, size: tuple[int, int], kernel: int, stride: int, padding: int
) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the resulting map and what the kernel sees there, (pixels, kernel^2 channels)."""
    height, width, channels = image.shape
    patch = kernel * kernel * channels
    step = max(1, _CHUNK_ELEMENTS // (size[1] * patch))
    right = stride * (size[1] - 1) + kernel - padding - width
    for start in range(0, size[0], step):
        stop = min(start + step, size[0])
        top, bottom = stride * start - padding, stride * (stop - 1) - padding + kernel
        seen = F.pad(
            image[max(top, 0) : min(bottom, height)],
            (0, 0, padding, right, max(-top, 0), max(bottom - height, 0)),
        ).contiguous()
        line = seen.shape[1] * channels
        # a patch's line of pixels is contiguous
        lines = seen.as_strided(
            (stop - start, size[1], kernel, kernel * channels),
            (stride * line, stride * channels, line, 1),
        )
        yield slice(start, stop), lines.reshape(-1, patch)


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


_operator = torch.library.custom_op(
    'mmrest::conv_tokens',
    _conv,
    mutates_args=(),
    schema='(Tensor x, Tensor weight, Tensor? bias, int stride, int padding, int groups) -> Tensor',
)
_operator.register_fake(_fake_conv)
_operator.register_autograd(_differentiate, setup_context=_save)
_backward_operator = torch.library.custom_op(
    'mmrest::conv_tokens_backward',
    _conv_backward,
    mutates_args=(),
    schema='(Tensor grad, Tensor x, Tensor weight, int stride, int padding, int groups, '
    'bool[] needed) -> (Tensor, Tensor, Tensor)',
)
_backward_operator.register_fake(
    lambda grad, x, weight, stride, padding, groups, needed: (
        x.new_empty(x.shape if needed[0] else 0),
        weight.new_empty(weight.shape if needed[1] else 0),
        weight.new_empty(weight.shape[0] if needed[2] else 0),
    )
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
