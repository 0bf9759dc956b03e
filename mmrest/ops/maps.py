"""Zeros around maps, cuts, pooling and layouts, in ways that compilers and exporters can follow.

A program that holds for all sizes must not depend on whether anything is filled or cut off.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrest.ops import dispatch
from mmrest.ops.registration import register_operator
from mmrest.ops.tracing import is_exporting


def pad_map(x: Tensor, bottom: int, right: int, top: int = 0, left: int = 0) -> Tensor:
    """(B, H, W, C) with rows and columns of zeros around it."""
    channels = x.shape[3]
    # of four dimensions, torch would ask what layout they are in
    rows = F.pad(x.flatten(2), (left * channels, right * channels, top, bottom))
    return rows.unflatten(2, (-1, channels))


def fill_up(x: Tensor, step: int) -> Tensor:
    """(B, H, W, C) with zeros at the bottom and the right, up to multiples of ``step``."""
    # not -side % step: torch's compiler (2.13) fails on what it makes of that
    bottom, right = ((side + step - 1) // step * step - side for side in x.shape[1:3])
    return pad_map(x, bottom, right)


def crop(maps: Tensor, size: tuple[int, int], dims: tuple[int, int] = (2, 3)) -> Tensor:
    """The top left ``size`` of maps whose height and width are ``dims``, contiguous."""
    if torch.compiler.is_compiling():
        # of a view, the program would hold for maps alone of which something is cut off, or nothing
        for dim, length in zip(dims, size, strict=True):
            maps = maps.index_select(dim, torch.arange(length, device=maps.device))
        return maps
    for dim, length in zip(dims, size, strict=True):
        maps = maps.narrow(dim, 0, length)
    return maps.contiguous()


def adaptive_average(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """``F.adaptive_avg_pool2d``: (B, C, H, W) -> (B, C, *size).

    What torch exports of it holds for the sizes alone that it saw.
    """
    if not (is_exporting() or torch.jit.is_tracing()):
        return F.adaptive_avg_pool2d(maps, size)
    rows, columns = (
        _averages(side, count, maps) for side, count in zip(maps.shape[2:], size, strict=True)
    )
    return rows @ maps @ columns.transpose(0, 1)  # ONNX knows no mT


def _averages(side: int, count: int, like: Tensor) -> Tensor:
    """The matrix that averages ``side`` cells in ``count`` areas, which may overlap."""
    areas = torch.arange(count, device=like.device)[:, None]
    cells = torch.arange(side, device=like.device)
    start = areas * side // count
    end = ((areas + 1) * side + count - 1) // count
    inside = ((cells >= start) & (cells < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


def channels_last(maps: Tensor) -> Tensor:
    """The same maps in channels-last layout, so that their tokens are a view.

    They stay as they are within ``torch.func.vmap``, which cannot tell layouts.
    """
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return maps
    return maps.contiguous(memory_format=torch.channels_last)


def channels_first(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), contiguous.

    On a processor torch copies a large transposed matrix faster than the same map.
    """
    if x.device.type != 'cpu' or dispatch.needs_torchs_operators(x):
        return x.permute(0, 3, 1, 2).contiguous()
    return torch.ops.mmrest.transpose(x.flatten(1, 2)).unflatten(2, x.shape[1:3])


def _transpose(matrices: Tensor) -> Tensor:
    batch, rows, columns = matrices.shape
    transposed = matrices.new_empty(batch, columns, rows)
    for target, matrix in zip(transposed, matrices, strict=True):
        target.copy_(matrix.t())
    return transposed


def max_pool(x: Tensor, stride: int) -> Tensor:
    """The maximum of 3x3 cells: (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), C).

    torch keeps the map and 64-bit numbers of the cells for gradients; here it is half as many bits.
    """
    if dispatch.needs_torchs_operators(x):
        return F.max_pool2d(x.permute(0, 3, 1, 2), 3, stride, 1).permute(0, 2, 3, 1)
    return torch.ops.mmrest.max_pool(x, stride)[0]


def _max_pool(x: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    maps = x.permute(0, 3, 1, 2)
    pooled, cells = torch.ops.aten.max_pool2d_with_indices(maps, [3, 3], [stride] * 2, [1, 1])
    return pooled.permute(0, 2, 3, 1).contiguous(), cells.permute(0, 2, 3, 1).int()


def _max_pool_backward(grad: Tensor, cells: Tensor, size: list[int], stride: int) -> Tensor:
    batch, _, _, channels = grad.shape
    maps = grad.new_empty(batch, *size, channels).permute(0, 3, 1, 2)  # its shape is asked for
    grad, cells = (t.permute(0, 3, 1, 2) for t in (grad.contiguous(), cells.long()))
    options = [3, 3], [stride] * 2, [1, 1], [1, 1], False
    back = torch.ops.aten.max_pool2d_with_indices_backward(grad, maps, *options, cells)
    return back.permute(0, 2, 3, 1).contiguous()


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    x, ctx.stride = inputs
    ctx.size = list(x.shape[1:3])
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor, None]:
    (cells,) = ctx.saved_tensors
    return torch.ops.mmrest.max_pool_backward(grad, cells, ctx.size, ctx.stride), None


def _fake_max_pool(x: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    rows, columns = ((side + stride - 1) // stride for side in x.shape[1:3])
    shape = x.shape[0], rows, columns, x.shape[3]
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.int32)


register_operator(
    'transpose',
    _transpose,
    '(Tensor matrices) -> Tensor',
    lambda matrices: matrices.new_empty(len(matrices), *matrices.shape[:0:-1]),
    lambda ctx, grad: torch.ops.mmrest.transpose(grad.contiguous()),
    any_order=True,
)
register_operator(
    'max_pool',
    _max_pool,
    '(Tensor x, int stride) -> (Tensor, Tensor)',
    _fake_max_pool,
    _differentiate,
    _save,
)
register_operator(
    'max_pool_backward',
    _max_pool_backward,
    '(Tensor grad, Tensor cells, int[] size, int stride) -> Tensor',
    lambda grad, cells, size, stride: grad.new_empty(len(grad), *size, grad.shape[3]),
)
