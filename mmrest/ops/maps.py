"""Zeros around a map and cuts out of it, in ways that compilers and exporters can follow.

A program that holds for all sizes must not depend on whether anything is filled or cut off.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
