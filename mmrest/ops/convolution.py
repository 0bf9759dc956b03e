"""Strided convolutions, with a faster gradient of their weights on a processor.

oneDNN's own for channels-last maps gathers single strided pixels; here, patches are laid out as
rows, a few rows of the map at a time so that they stay in the cache, and multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrest.ops.products import multiply_by_onednn, prefers_onednn

# Elements of the patches that are laid out at a time.
_CHUNK_ELEMENTS = 2**20
# With fewer channels a patch is too short to be copied quickly.
_FEWEST_CHANNELS = 16


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
