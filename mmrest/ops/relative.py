"""What tables of relative positions add to an attention's logits (MViTv2, arXiv 2112.01526).

A table has a vector for each distance between a query and a key along an axis. Queries and keys may
be of maps of different sizes; distances are then in cells of the finer one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mmrest.ops import dispatch
from mmrest.ops.autocast import as_autocast
from mmrest.ops.registration import register_operator
from mmrest.ops.tracing import is_exporting

Grid = tuple[int, int]


def position_logits(
    q: Tensor, key_grid: Grid, row_table: Tensor, column_table: Tensor
) -> tuple[Tensor, Tensor]:
    """What each query adds to the logits of each row and of each column of the keys.

    Args:
        q: Queries (B, H, W, heads, head_dim), which are not scaled.
        key_grid: (rows, columns) of the keys.
        row_table: (distances, head_dim); resized to the distances that there are.
        column_table: As ``row_table``.

    Returns:
        (B, H, W, heads, rows) and (B, H, W, heads, columns).
    """
    of_rows = relative_vectors(row_table, q.shape[1], key_grid[0]).to(q.dtype)
    of_columns = relative_vectors(column_table, q.shape[2], key_grid[1]).to(q.dtype)
    if dispatch.is_reference(q) or is_exporting():
        return _forward(q, of_rows, of_columns)
    return torch.ops.mmrest.position_logits(*as_autocast(q, of_rows, of_columns))


def _forward(q: Tensor, of_rows: Tensor, of_columns: Tensor) -> tuple[Tensor, Tensor]:
    rows = q.flatten(2, 3) @ of_rows.transpose(-2, -1)  # a matrix for each row of queries
    columns = q.transpose(1, 2).flatten(2, 3) @ of_columns.transpose(-2, -1)
    heads = q.shape[3]
    return (
        rows.unflatten(2, (-1, heads)),
        columns.unflatten(2, (-1, heads)).transpose(1, 2),
    )


def _backward(
    grad_rows: Tensor, grad_columns: Tensor, q: Tensor, of_rows: Tensor, of_columns: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the queries and of both tables' vectors."""
    heads = q.shape[3]
    along_rows, by_rows = grad_rows.flatten(2, 3), q.flatten(2, 3)
    along_columns, by_columns = (t.transpose(1, 2).flatten(2, 3) for t in (grad_columns, q))
    dq = (along_rows @ of_rows).unflatten(2, (-1, heads))
    dq += (along_columns @ of_columns).unflatten(2, (-1, heads)).transpose(1, 2)
    return (
        dq,
        (along_rows.mT @ by_rows).sum(0),
        (along_columns.mT @ by_columns).sum(0),
    )


def joint_logits(q: Tensor, key_grid: Grid, table: Tensor) -> Tensor:
    """What a table of both axes together adds to the logits, for every query and key.

    Args:
        q: Queries (B, H, W, heads, head_dim), which are not scaled.
        key_grid: (rows, columns) of the keys.
        table: (vertical distances, horizontal distances, head_dim).

    Returns:
        (B, heads, H W, rows columns).
    """
    height, width = q.shape[1:3]
    distances = [2 * max(pair) - 1 for pair in zip((height, width), key_grid, strict=True)]
    if table.shape[:2] != torch.Size(distances):
        table = resize(table.permute(2, 0, 1)[None], distances, 'bilinear')[0].permute(1, 2, 0)
    table = table.to(q.dtype)
    vertical = relative_index(height, key_grid[0], q.device)
    horizontal = relative_index(width, key_grid[1], q.device)
    logits = []
    for row, of_row in zip(q.unbind(1), vertical, strict=True):
        # of each query to the keys' rows, at every horizontal distance: (B, W, heads, rows, d)
        products = torch.einsum('bxhc,rdc->bxhrd', row, table[of_row])
        places = horizontal[None, :, None, None].expand(*products.shape[:4], -1)
        logits.append(products.gather(4, places).flatten(3))
    return torch.stack(logits, dim=1).flatten(1, 2).transpose(1, 2)


def relative_vectors(table: Tensor, queries: int, keys: int) -> Tensor:
    """The vector of each query and key along an axis, (queries, keys, head_dim).

    A table of another number of distances is resized linearly, as in detectron2.

    Args:
        table: (distances, head_dim).
        queries: Cells along the axis.
        keys: Cells along the axis.
    """
    # a condition on sizes that vary would make a graph hold for one of its sides alone; a table
    # that has all distances is resized to itself
    needed = 2 * max(queries, keys) - 1
    if torch.compiler.is_compiling() or len(table) != needed:
        table = resize(table.T[None], [needed], 'linear')[0].T
    return table[relative_index(queries, keys, table.device)]


def resize(table: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """``F.interpolate`` of a table (1, channels, ...), in float32 at least.

    Half precision cannot be resized on every device.
    """
    precise = table.to(torch.promote_types(table.dtype, torch.float32))
    resized = F.interpolate(precise, size=size, mode=mode, align_corners=False)
    return resized.to(table.dtype)


def relative_index(queries: int, keys: int, device: torch.device) -> Tensor:
    """Distance of each query and key along an axis, as a row of a table: (queries, keys).

    Computed in float32, as in the authors' code: where one size is no multiple of the other, exact
    numbers give other rows at some sizes, and would be another model there.
    """
    # made where they are used, since a GPU would be waited for; some other devices have no float64
    made_on = device if device.type in ('cpu', 'cuda', 'meta') else 'cpu'
    counts = [torch.scalar_tensor(n, dtype=torch.float64, device=made_on) for n in (queries, keys)]
    of_queries = (counts[1] / counts[0]).clamp(min=1)
    of_keys = (counts[0] / counts[1]).clamp(min=1)
    ahead = (counts[1] - 1) * of_keys
    of_queries, of_keys, ahead = (t.float().to(device) for t in (of_queries, of_keys, ahead))
    query_places = torch.arange(queries, dtype=torch.float32, device=device) * of_queries
    key_places = torch.arange(keys, dtype=torch.float32, device=device) * of_keys
    return (query_places[:, None] - key_places[None] + ahead).long()


def _fake(q: Tensor, of_rows: Tensor, of_columns: Tensor) -> tuple[Tensor, Tensor]:
    batch, height, width, heads = q.shape[:4]
    columns = q.new_empty(batch, width, height, heads, of_columns.shape[1])
    return q.new_empty(*q.shape[:4], of_rows.shape[1]), columns.transpose(1, 2)


def _differentiate(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
    return torch.ops.mmrest.position_logits_backward(*grads, *ctx.saved_tensors)


# as an operator it keeps no copy of the queries, in which the columns' come together, for gradients
register_operator(
    'position_logits',
    _forward,
    '(Tensor q, Tensor of_rows, Tensor of_columns) -> (Tensor, Tensor)',
    _fake,
    _differentiate,
    lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)
register_operator(
    'position_logits_backward',
    _backward,
    '(Tensor grad_rows, Tensor grad_columns, Tensor q, Tensor of_rows, Tensor of_columns)'
    ' -> (Tensor, Tensor, Tensor)',
    lambda grad_rows, grad_columns, *inputs: tuple(t.new_empty(t.shape) for t in inputs),
)


@register_flop_formula(torch.ops.mmrest.position_logits)
def _count(q: Sequence[int], of_rows: Sequence[int], of_columns: Sequence[int], **_: Any) -> int:
    return 2 * math.prod(q) * (of_rows[1] + of_columns[1])


@register_flop_formula(torch.ops.mmrest.position_logits_backward)
def _count_backward(grad_rows: Any, grad_columns: Any, *shapes: Sequence[int], **_: Any) -> int:
    return 2 * _count(*shapes)
