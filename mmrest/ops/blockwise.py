"""Exact attention in memory that is linear in the tokens, forward and backward.

No map of queries times keys is kept: both passes go through it in blocks of queries that stay in a
processor's cache, and the backward pass computes each block anew.

ResT (arXiv 2105.13677, Section 3.1, Eq. 4) mixes the logits across heads before the softmax and
instance-normalises every head's whole map P after it. Every row of P sums to one, so its mean is
exactly 1 / M for M keys, and with N queries, D = P - 1 / M and r = (sum(D^2) / (N M) + eps)^-1/2

    InstanceNorm(P) V = r D V

needs two sums over the map. (Subtracting 1 / M before squaring, not after, keeps float32 exact
where few keys make 1 / M^2 much larger than the variance.) With Y = r D V and dY its gradient,

    dD = r (dY V^T + a D),   a = -r sum(dY Y) / (N M),   dV = r D^T dY,

then the backward passes of a softmax (which a constant along a row does not change, so that a P
serves for a D), of the mix of heads and of the products. The factor r is applied to the mix.

What relative positions add to the logits of a row and of a column of keys (MViTv2, arXiv
2112.01526) is added to a block's logits; its gradient is a sum of theirs over that row or column.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mmrest.ops.cpu.matmul import (
    add_products,
    as_columns,
    even_step,
    is_fused_faster,
    mix_heads,
    multiply,
)
from mmrest.ops.registration import (
    count_attention,
    count_attention_backward,
    empty_tokens,
    register_attention,
    register_operator,
)

# Elements of a block's map: it stays in a processor's last cache, and launching it costs little.
_BLOCK_ELEMENTS = 2**21
_BLOCK_ELEMENTS_ON_DEVICE = 2**25
# With fewer, products wait for memory: where there are many keys a block may leave the cache.
_FEWEST_QUERIES = 64
# Products are written fastest where the rows of a map begin at a multiple of so many elements.
_ALIGNMENT = 16


def attend_blockwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Tensor | None = None,
    mix_bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Attention, or with ``mix_weight`` that of ResT; see :func:`mmrest.ops.emsa`."""
    return torch.ops.mmrest.attend_blockwise(q, k, v, mix_weight, mix_bias, eps)[0]


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Tensor | None,
    mix_bias: Tensor | None,
    eps: float,
    positions: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """The output (B, heads, N, head_dim of v) and the factor r of each map (B, heads)."""
    with torch.autocast(q.device.type, enabled=False):
        maps = _AttentionMaps(q, k, mix_weight, positions)
        out = empty_tokens(q, v.shape[3])
        mixed = mix_weight is not None
        scale = maps.statistics.new_zeros(q.shape[:2])
        for group in maps.groups():
            keys, values_t = maps.keys_of(group), as_columns(maps.fill_up(v[group]))
            for rows in maps.steps():
                block = *group, rows
                probs = maps.softmax(block, q[block].contiguous(), keys)[1]
                if mixed:
                    scale[group] += maps.centre(probs)
                out[block] = multiply(maps.narrow(probs), values_t)
        if mixed:
            scale.div_(maps.queries * maps.keys).add_(eps).rsqrt_()
            out.mul_((scale / maps.range)[..., None, None])
    return out, scale


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mix_weight: Tensor | None,
    out: Tensor | None,
    scale: Tensor,
    positions: Sequence[Tensor] = (),
) -> tuple[Tensor, ...]:
    """Gradients of q, k, v, of the mix (of no elements without one) and of the positions."""
    with torch.autocast(q.device.type, enabled=False):
        maps = _AttentionMaps(q, k, mix_weight, positions)
        mixed = mix_weight is not None
        dq, *dpositions = (empty_tokens(q, part.shape[3]) for part in (q, *positions))
        dk, dv = (maps.statistics.new_empty(*t.shape[:2], maps.columns, t.shape[3]) for t in (k, v))
        softmax_backward = torch.ops.aten._softmax_backward_data.out
        mix_grad = maps.statistics.new_zeros(mix_weight.shape if mixed else 0)
        if mixed:
            pull = torch.linalg.vecdot(*(t.flatten(2).to(scale.dtype) for t in (grad, out)))
            pull = (pull * scale / -(maps.queries * maps.keys))[..., None, None]
            mix_back = (maps.mix * scale[..., None]).mT
        for group in maps.groups():
            keys, values, images = maps.keys_of(group), maps.fill_up(v[group]), group[0]
            keys_t = as_columns(keys)
            for rows in maps.steps():
                block, is_first = (*group, rows), rows.start == 0
                queries, grads = q[block].contiguous(), grad[block].contiguous()
                logits, probs = maps.softmax(block, queries, keys)
                dmap = multiply(grads, values, maps.take('gradients', logits.shape))
                if mixed:
                    dmap.addcmul_(probs, pull[group])
                softmax_backward(dmap, probs, -1, dmap.dtype, grad_input=dmap)
                if mixed:
                    maps.subtract_mean(probs)
                add_products(dv[group], maps.narrow(probs), grads, is_first)
                if mixed:
                    pairs = (dmap.flatten(2) @ logits.flatten(2).mT) * scale[images, :, None]
                    mix_grad.add_(pairs.sum(0), alpha=maps.scale)
                    dmap = mix_heads(mix_back[images], dmap, probs)  # probs has served
                if positions:
                    cells = maps.cells_of(dmap)
                    dpositions[0][block] = cells.sum(4)
                    dpositions[1][block] = cells.sum(3)
                dmap = dmap.to(k.dtype)
                dq[block] = multiply(dmap, keys_t)
                add_products(dk[group], dmap, queries, is_first)
        if mixed:
            dv.mul_((scale / maps.range)[..., None, None])
            mix_grad = mix_grad.to(mix_weight.dtype)
        else:
            dk.mul_(maps.scale)
        dk, dv = (t[:, :, : maps.keys].to(q.dtype).contiguous() for t in (dk, dv))
    return dq, dk, dv, mix_grad, *dpositions


class _AttentionMaps:
    """The blocks of attention maps, (images, heads, rows, columns), and memory for one at a time.

    There is a column for each key, and on a processor a few more, of keys that nobody sees, so that
    rows are aligned. Some products bring memory of their own. Statistics and softmax are in float32
    at least, whatever the tensors are.
    """

    def __init__(
        self, q: Tensor, k: Tensor, mix_weight: Tensor | None, positions: Sequence[Tensor] = ()
    ) -> None:
        self.q = q
        self.k = k
        self.positions = positions
        self.batch, self.heads, self.queries, head_dim = q.shape
        self.keys = k.shape[2]
        self.columns = _columns_of(self.keys) if q.device.type == 'cpu' else self.keys
        self.scale = head_dim**-0.5
        # makes tensors of the dtype that statistics have
        self.statistics = q.new_empty(0, dtype=torch.promote_types(q.dtype, torch.float32))
        # half precision has too small a range for D, whose elements are mostly below 1 / M
        mixed, half = mix_weight is not None, self.statistics.dtype != q.dtype
        self.range = 2.0 ** round(math.log2(self.keys) / 2) if mixed and half else 1.0
        # the logits are scaled where that is least work
        self.mix = mix_weight.to(self.statistics.dtype) * self.scale if mixed else None
        self.memory: dict[str, Tensor] = {}
        self._share_out(_BLOCK_ELEMENTS if q.device.type == 'cpu' else _BLOCK_ELEMENTS_ON_DEVICE)

    def _share_out(self, limit: int) -> None:
        """How many images, heads and rows make a block of about ``limit`` elements.

        Heads that are mixed must be in a block together. Of others a block has a map for each
        thread, and if possible a multiple of that: a product of many matrices is shared out by
        matrices.
        """
        threads = torch.get_num_threads() if self.q.device.type == 'cpu' else 1
        at_once = self.heads
        if self.mix is None:
            most = max(1, limit // (_FEWEST_QUERIES * self.columns))
            at_once = min(threads, self.batch * self.heads, most)
        about = max(_FEWEST_QUERIES, limit // (at_once * self.columns))
        self.rows_together = min(self.queries, even_step(self.queries, about))
        maps = max(at_once, limit // (self.rows_together * self.columns))
        self.heads_together = self.heads if self.mix is not None else min(self.heads, maps)
        images = min(self.batch, max(1, maps // self.heads_together))
        whole = threads // math.gcd(threads, self.heads_together)
        self.images_together = images // whole * whole or images
        if images < whole and self.mix is None:
            self.heads_together = self.heads_together // threads * threads or self.heads_together

    def groups(self) -> Iterator[tuple[slice, slice]]:
        """Images and heads of the blocks that are computed together."""
        for images in _slices(self.batch, self.images_together):
            for heads in _slices(self.heads, self.heads_together):
                yield images, heads

    def steps(self) -> list[slice]:
        """Rows of a group's blocks, one after the other."""
        return _slices(self.queries, self.rows_together)

    def keys_of(self, group: tuple[slice, slice]) -> Tensor:
        """A group's keys, scaled if they are not mixed."""
        k = self.k[group]
        return self.fill_up(k if self.mix is not None else k * self.scale)

    def fill_up(self, k: Tensor) -> Tensor:
        """Keys or values (images, heads, keys, channels) with zeros for those that nobody sees."""
        filling = self.columns - self.keys
        return F.pad(k, (0, 0, 0, filling)) if filling else k.contiguous()

    def take(self, name: str, shape: Sequence[int]) -> Tensor:
        """The memory of this name, as long as the first that was taken."""
        if name not in self.memory:
            self.memory[name] = self.statistics.new_empty(math.prod(shape))
        return self.memory[name][: math.prod(shape)].view(shape)

    def cells_of(self, block_map: Tensor) -> Tensor:
        """A view (images, heads, queries, rows, columns), of the keys that have positions."""
        grid = [part.shape[3] for part in self.positions]
        return block_map[..., self.keys - math.prod(grid) : self.keys].unflatten(3, grid)

    def bias_of(self, block: tuple[slice, ...]) -> Tensor:
        """What the positions add to a block's logits, (images, heads, queries, keys)."""
        of_rows, of_columns = (part[block] for part in self.positions)
        bias = self.take('bias', (*of_rows.shape[:3], self.columns))[..., : self.keys]
        without_position = self.keys - of_rows.shape[3] * of_columns.shape[3]
        bias[..., :without_position] = 0
        torch.add(of_rows[..., None], of_columns[..., None, :], out=self.cells_of(bias))
        return bias

    def softmax(
        self, block: tuple[slice, ...], queries: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A block's logits before the mix of heads, and the rows' softmax after it.

        Without a mix both are the same memory, which holds the softmax.
        """
        shape = *queries.shape[:3], self.columns
        logits = multiply(queries, keys, self.take('logits', shape))
        if self.positions:
            of_rows, of_columns = (part[block] for part in self.positions)
            self.cells_of(logits).add_(of_rows[..., None]).add_(of_columns[..., None, :])
        mixed = logits
        if self.mix is not None:
            mix = self.mix.expand(len(queries), -1, -1)
            mixed = mix_heads(mix, logits, self.take('mixed', shape))
        mixed[..., self.keys :] = -math.inf
        return logits, torch.softmax(mixed, dim=-1, out=mixed)

    def subtract_mean(self, probs: Tensor) -> None:
        """Turns P into D, in its memory."""
        probs.sub_(1 / self.keys)
        probs[..., self.keys :] = 0

    def centre(self, probs: Tensor) -> Tensor:
        """As :meth:`subtract_mean`; the sum of squares of D for every image and head."""
        self.subtract_mean(probs)
        return torch.linalg.vector_norm(probs, dim=3).square().sum(2)

    def narrow(self, probs: Tensor) -> Tensor:
        """A block's map in the dtype of the tensors, times ``range``."""
        return probs if probs.dtype == self.q.dtype else (probs * self.range).to(self.q.dtype)


def _columns_of(keys: int) -> int:
    """Columns of a map's aligned rows; only those of the keys where that would be many more."""
    aligned = math.ceil(keys / _ALIGNMENT) * _ALIGNMENT
    return aligned if aligned - keys <= keys // _ALIGNMENT else keys


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def attend_blockwise_with_positions(
    q: Tensor, k: Tensor, v: Tensor, row_logits: Tensor, column_logits: Tensor
) -> Tensor:
    """See :func:`mmrest.ops.attention_with_positions`."""
    return torch.ops.mmrest.attend_with_positions(q, k, v, row_logits, column_logits)


def _forward_with_positions(q: Tensor, k: Tensor, v: Tensor, *positions: Tensor) -> Tensor:
    """The output (B, heads, N, head_dim of v), of a block at a time.

    The backward pass computes a block's map itself: torch's fused attention gives no gradient of a
    bias.
    """
    if not is_fused_faster(q, k, v):
        return _forward(q, k, v, None, None, 0.0, positions)[0]
    with torch.autocast(q.device.type, enabled=False):
        maps = _AttentionMaps(q, k, None, positions)
        out = empty_tokens(q, v.shape[3])
        for group in maps.groups():
            for rows in maps.steps():
                block = *group, rows
                bias = maps.bias_of(block)
                out[block] = F.scaled_dot_product_attention(q[block], k[group], v[group], bias)
    return out


def _backward_with_positions(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *positions: Tensor
) -> tuple[Tensor, ...]:
    dq, dk, dv, _, *dpositions = _backward(grad, q, k, v, None, None, None, positions)
    return dq, dk, dv, *dpositions


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    return torch.ops.mmrest.attend_with_positions_backward(grad, *ctx.saved_tensors)


register_attention('attend_blockwise', _forward, _backward, row_statistics=0)
register_operator(
    'attend_with_positions',
    _forward_with_positions,
    '(Tensor q, Tensor k, Tensor v, Tensor rows, Tensor columns) -> Tensor',
    lambda q, k, v, *_: empty_tokens(q, v.shape[3]),
    _differentiate,
    lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)
register_operator(
    'attend_with_positions_backward',
    _backward_with_positions,
    '(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor rows, Tensor columns)'
    ' -> (Tensor, Tensor, Tensor, Tensor, Tensor)',
    lambda grad, q, k, v, *positions: (
        empty_tokens(q),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        *(empty_tokens(q, part.shape[3]) for part in positions),
    ),
)


@register_flop_formula(torch.ops.mmrest.attend_with_positions)
def _count(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
    return count_attention(q, k, v, None)


@register_flop_formula(torch.ops.mmrest.attend_with_positions_backward)
def _count_backward(
    grad: Any, q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any
) -> int:
    return count_attention_backward(grad, q, k, v, None)
