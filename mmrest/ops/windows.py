"""Windows of a map, and attention in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mmrest.ops import dispatch
from mmrest.ops.functional import attention
from mmrest.ops.maps import crop, pad_map
from mmrest.ops.registration import register_operator

Grid = tuple[int, int]
# None is the whole side of the map: a program that holds for all sizes cannot know from numbers
# that one window covers it.
Window = tuple[int | None, int | None]


def attend_in_windows(q: Tensor, k: Tensor, v: Tensor, grid: Grid, window_size: int) -> Tensor:
    """Attention of each token to its window and the class token, as in plain transformers.

    ViTDet (arXiv 2203.16527), Section 3, with a class token.

    The class token attends to itself and to the whole map, at a cost linear in the tokens. Windows
    begin at the top left; those that would stick out at the right and the bottom are smaller
    instead, so nothing is padded and nothing needs a mask.

    Args:
        q: Queries (B, heads, 1 + rows columns, head_dim), the class token's first.
        k: Keys of the same shape.
        v: Values of the same shape.
        grid: (rows, columns).
        window_size: In tokens; less at the right and the bottom if it does not divide the grid.

    Returns:
        (B, heads, 1 + rows columns, head_dim).
    """
    batch, heads, _, head_dim = q.shape
    cls_token = attention(q[:, :, :1], k, v)
    maps = [t[:, :, 1:].reshape(batch, heads, *grid, head_dim) for t in (q, k, v)]
    cls_keys = [None, k[:, :, :1], v[:, :, :1]]
    bands = []
    for rows, height in spans(grid[0], window_size):
        strips = []
        for columns, width in spans(grid[1], window_size):
            shape = (rows.stop - rows.start) // height, (columns.stop - columns.start) // width
            windows = [
                _to_windows(part[:, :, rows, columns], (height, width), extra)
                for part, extra in zip(maps, cls_keys, strict=True)
            ]
            attended = attention(*windows)
            attended = attended.reshape(batch, *shape, heads, height, width, head_dim)
            attended = attended.permute(0, 3, 1, 4, 2, 5, 6)
            strips.append(attended.reshape(batch, heads, shape[0] * height, -1, head_dim))
        bands.append(torch.cat(strips, dim=3))
    tokens = torch.cat(bands, dim=2).flatten(2, 3)
    return torch.cat([cls_token, tokens], dim=2)


def spans(length: int, window_size: int) -> Iterator[tuple[slice, int]]:
    """The part of a side that whole windows cover and the rest, each with its windows' size."""
    whole = length // window_size * window_size
    if whole:
        yield slice(0, whole), window_size
    if whole < length:
        yield slice(whole, length), length - whole


def _to_windows(part: Tensor, size: Grid, extra: Tensor | None) -> Tensor:
    """(B, heads, H, W, d) -> (B windows, heads, [1 +] height width, d), ``extra`` first."""
    batch, heads, rows, columns, head_dim = part.shape
    height, width = size
    count = rows // height, columns // width
    windows = part.reshape(batch, heads, count[0], height, count[1], width, head_dim)
    windows = windows.permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, heads, height * width, head_dim)
    if extra is None:
        return windows
    # not repeat_interleave, which ONNX does not get right for sizes that vary
    extra = extra[:, None].expand(-1, count[0] * count[1], -1, -1, -1).flatten(0, 1)
    return torch.cat([extra, windows], dim=2)


def window_attention(q: Tensor, k: Tensor, v: Tensor, size: Window) -> Tensor:
    """Attention of each cell of a map to its window.

    Windows begin at the top left. Where they do not divide the map, those at the right and the
    bottom are smaller: cells that fill them are not seen.

    Args:
        q: Queries (B, H, W, heads, head_dim).
        k: Keys of the same shape.
        v: Values of the same shape.
        size: (height, width) of a window; None is the map's.

    Returns:
        (B, H, W, heads, head_dim).
    """
    grid = q.shape[1:3]
    cut = [cut_windows(t, size) for t in (q, k, v)]
    windows = [t.flatten(1, 2).transpose(1, 2) for t in cut]
    bias = None
    if _may_be_filled(grid, size):
        bias = hide_filling(q.shape[0], grid, size, q)
    attended = attention(*windows, bias).transpose(1, 2).unflatten(1, cut[0].shape[1:3])
    return join_windows(attended, grid, size)


def _may_be_filled(grid: Grid, size: Window) -> bool:
    sides = [(side, step) for side, step in zip(grid, size, strict=True) if step is not None]
    # a graph in which nothing is filled would hold for whole windows alone
    return any(torch.compiler.is_compiling() or side % step for side, step in sides)


def hide_filling(batch: int, grid: Grid, size: Window, like: Tensor) -> Tensor:
    """What is added to the logits so that no query sees the cells that fill the last windows.

    Args:
        batch: Images.
        grid: Height and width of the map.
        size: (height, width) of a window; None is the map's.
        like: For dtype and device.

    Returns:
        (B windows, 1, 1, height width).
    """
    filling = 1 - cut_windows(like.new_ones(batch, *grid, 1), size).flatten(1)
    return filling[:, None, None] * torch.finfo(like.dtype).min


def cut_windows(maps: Tensor, size: Window) -> Tensor:
    """A map in windows that begin at the top left; zeros fill the last ones.

    Args:
        maps: (B, H, W, ..., C).
        size: (height, width) of a window; None is the map's.

    Returns:
        (B windows, height, width, ...), the windows of an image row by row.
    """
    height, width = (step or side for side, step in zip(maps.shape[1:3], size, strict=True))
    if not dispatch.needs_torchs_operators(maps):
        return torch.ops.mmrest.cut_windows(maps, height, width)
    rows, columns = _count_windows(maps.shape[1:3], size)
    bottom, right = rows * height - maps.shape[1], columns * width - maps.shape[2]
    padded = pad_map(maps.flatten(3), bottom, right).unflatten(3, maps.shape[3:])
    windows = padded.unflatten(2, (columns, width)).unflatten(1, (rows, height)).transpose(2, 3)
    return windows.flatten(0, 2)


def join_windows(windows: Tensor, grid: Grid, size: Window | None = None) -> Tensor:
    """The map that :func:`cut_windows` cut.

    Args:
        windows: (B windows, height, width, ...).
        grid: Height and width of the map.
        size: That it was cut by, where that is not the windows' own.

    Returns:
        (B, H, W, ...).
    """
    if not dispatch.needs_torchs_operators(windows):
        return torch.ops.mmrest.join_windows(windows, *grid)
    rows, columns = _count_windows(grid, size or windows.shape[1:3])
    maps = windows.unflatten(0, (-1, rows, columns)).transpose(2, 3).flatten(1, 2).flatten(2, 3)
    return crop(maps, grid, dims=(1, 2))


def _count_windows(grid: Grid, size: Window) -> Grid:
    """Rows and columns of windows."""
    return tuple(
        1 if step is None else (side + step - 1) // step
        for side, step in zip(grid, size, strict=True)
    )


def _cut(maps: Tensor, height: int, width: int) -> Tensor:
    rows, columns = _count_windows(maps.shape[1:3], (height, width))
    windows = maps.new_empty(len(maps), rows, columns, height, width, *maps.shape[3:])
    for in_windows, in_map in _parts(windows, maps):
        in_windows.copy_(in_map)
    windows[:, -1, :, maps.shape[1] - (rows - 1) * height :].zero_()
    windows[:, :, -1, :, maps.shape[2] - (columns - 1) * width :].zero_()
    return windows.flatten(0, 2)


def _join(windows: Tensor, height: int, width: int) -> Tensor:
    rows, columns = _count_windows((height, width), windows.shape[1:3])
    windows = windows.unflatten(0, (-1, rows, columns))
    maps = windows.new_empty(len(windows), height, width, *windows.shape[5:])
    for in_windows, in_map in _parts(windows, maps):
        in_map.copy_(in_windows)
    return maps


def _parts(windows: Tensor, maps: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The same cells in windows (B, rows, columns, height, width, ...) and in maps (B, H, W, ...).

    Those of whole windows, and of the smaller ones at the right and the bottom.
    """
    height, width = windows.shape[3:5]
    for rows, high in spans(maps.shape[1], height):
        for columns, wide in spans(maps.shape[2], width):
            in_map = maps[:, rows, columns].unflatten(2, (-1, wide)).unflatten(1, (-1, high))
            row, column = rows.start // height, columns.start // width
            in_windows = windows[:, row : row + in_map.shape[1], column : column + in_map.shape[3]]
            yield in_windows[:, :, :, :high, :wide], in_map.transpose(2, 3)


def _save_size(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.size = inputs[0].shape[1:3]


register_operator(
    'cut_windows',
    _cut,
    '(Tensor maps, int height, int width) -> Tensor',
    _cut,
    lambda ctx, grad: (torch.ops.mmrest.join_windows(grad, *ctx.size), None, None),
    _save_size,
    any_order=True,
)
register_operator(
    'join_windows',
    _join,
    '(Tensor windows, int height, int width) -> Tensor',
    _join,
    lambda ctx, grad: (torch.ops.mmrest.cut_windows(grad, *ctx.size), None, None),
    _save_size,
    any_order=True,
)
