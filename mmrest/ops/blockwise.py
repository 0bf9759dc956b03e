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
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmrest.ops.cpu.matmul import add_products, even_step, mix_heads, multiply
from mmrest.ops.registration import empty_tokens, register_attention

# Elements of a block's map: it stays in a processor's last cache, and launching it costs little.
_BLOCK_ELEMENTS = 2**21
_BLOCK_ELEMENTS_ON_DEVICE = 2**25
# With fewer, products wait for memory: where there are many keys a block may leave the cache.
_FEWEST_QUERIES = 64


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
) -> tuple[Tensor, Tensor]:
    """The output (B, heads, N, head_dim of v) and the factor r of each map (B, heads)."""
    with torch.autocast(q.device.type, enabled=False):
        maps = _AttentionMaps(q, k, mix_weight)
        out = empty_tokens(q, v.shape[3])
        v_t = v.mT.contiguous()
        scale = maps.statistics.new_zeros(q.shape[:2])
        for which_maps, rows in maps.blocks():
            probs = maps.softmax(which_maps, rows)[1]
            if mix_weight is not None:
                probs.sub_(1 / maps.keys)
                scale[which_maps] += torch.linalg.vector_norm(probs, dim=3).square().sum(2)
            out[(*which_maps, rows)] = multiply(maps.narrow(probs), v_t[which_maps])
        if mix_weight is not None:
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and of the mix (of no elements without one)."""
    with torch.autocast(q.device.type, enabled=False):
        maps = _AttentionMaps(q, k, mix_weight)
        mixed = mix_weight is not None
        dq = empty_tokens(q)
        # (B, heads, head_dim, M)
        dk_t, dv_t = (maps.statistics.new_zeros(t.mT.shape) for t in (k, v))
        k_t, v = maps.k.mT.contiguous(), v.contiguous()
        softmax_backward = torch.ops.aten._softmax_backward_data.out
        mix_grad = maps.statistics.new_zeros(mix_weight.shape if mixed else 0)
        if mixed:
            pull = torch.linalg.vecdot(*(t.flatten(2).to(scale.dtype) for t in (grad, out)))
            pull = (pull * scale / -(maps.queries * maps.keys))[..., None, None]
            mix_back = (maps.mix * scale[..., None]).mT
        for which_maps, rows in maps.blocks():
            block, images = (*which_maps, rows), which_maps[0]
            logits, probs = maps.softmax(which_maps, rows)
            dmap = multiply(grad[block], v[which_maps], maps.take(1, logits.shape))
            if mixed:
                dmap.addcmul_(probs, pull[which_maps])
            softmax_backward(dmap, probs, -1, dmap.dtype, grad_input=dmap)
            if mixed:
                probs.sub_(1 / maps.keys)
            add_products(dv_t[which_maps], maps.narrow(probs), grad[block])
            if mixed:
                pairs = (dmap.flatten(2) @ logits.flatten(2).mT) * scale[images, :, None]
                mix_grad.add_(pairs.sum(0), alpha=maps.scale)
                dmap = mix_heads(mix_back[images], dmap, probs)  # probs has served
            dmap = dmap.to(k.dtype)
            dq[block] = multiply(dmap, k_t[which_maps])
            add_products(dk_t[which_maps], dmap, q[block])
        if mixed:
            dv_t.mul_((scale / maps.range)[..., None, None])
            mix_grad = mix_grad.to(mix_weight.dtype)
        else:
            dk_t.mul_(maps.scale)
    dk, dv = (t.mT.contiguous().to(q.dtype) for t in (dk_t, dv_t))
    return dq, dk, dv, mix_grad


class _AttentionMaps:
    """The blocks of the attention maps, (images, heads, rows, keys), and memory for one at a time.

    Some products bring memory of their own. Statistics and softmax are in float32 at least,
    whatever the tensors are.
    """

    def __init__(self, q: Tensor, k: Tensor, mix_weight: Tensor | None) -> None:
        self.q = q
        self.batch, self.heads, self.queries, head_dim = q.shape
        self.keys = k.shape[2]
        self.scale = head_dim**-0.5
        # makes tensors of the dtype that statistics have
        self.statistics = q.new_empty(0, dtype=torch.promote_types(q.dtype, torch.float32))
        # half precision has too small a range for D, whose elements are mostly below 1 / M
        mixed, half = mix_weight is not None, self.statistics.dtype != q.dtype
        self.range = 2.0 ** round(math.log2(self.keys) / 2) if mixed and half else 1.0
        # the logits are scaled where that is least work
        self.mix = mix_weight.to(self.statistics.dtype) * self.scale if mixed else None
        limit = _BLOCK_ELEMENTS if q.device.type == 'cpu' else _BLOCK_ELEMENTS_ON_DEVICE
        # heads that are mixed must be in a block together; others get more queries each
        about = max(_FEWEST_QUERIES, limit // ((self.heads if mixed else 1) * self.keys))
        self.rows_together = min(self.queries, even_step(self.queries, about))
        taken = self.rows_together * self.keys
        self.heads_together = self.heads if mixed else min(self.heads, max(1, limit // taken))
        taken *= self.heads_together
        self.images_together = min(self.batch, max(1, limit // taken))
        self.elements = taken * self.images_together
        self.memory: dict[int, Tensor] = {}
        self.k = (k if mixed else k * self.scale).contiguous()

    def blocks(self) -> Iterator[tuple[tuple[slice, slice], slice]]:
        """Of each block its images and heads, and its rows."""
        for images in _slices(self.batch, self.images_together):
            for heads in _slices(self.heads, self.heads_together):
                for rows in _slices(self.queries, self.rows_together):
                    yield (images, heads), rows

    def take(self, index: int, shape: Sequence[int]) -> Tensor:
        """Memory for a block's maps; what it held is lost."""
        if index not in self.memory:
            self.memory[index] = self.statistics.new_empty(self.elements)
        return self.memory[index][: math.prod(shape)].view(shape)

    def softmax(self, which_maps: tuple[slice, slice], rows: slice) -> tuple[Tensor, Tensor]:
        """The logits before the mix of heads, and the rows' softmax after it.

        Without a mix both are the same memory, which holds the softmax.
        """
        q = self.q[(*which_maps, rows)]
        shape = *q.shape[:3], self.keys
        logits = multiply(q, self.k[which_maps], self.take(0, shape))
        if self.mix is None:
            return logits, torch.softmax(logits, dim=-1, out=logits)
        mixed = mix_heads(self.mix.expand(len(q), -1, -1), logits, self.take(1, shape))
        return logits, torch.softmax(mixed, dim=-1, out=self.take(2, shape))

    def narrow(self, probs: Tensor) -> Tensor:
        """A block's map in the dtype of the tensors, times ``range``."""
        return probs if probs.dtype == self.q.dtype else (probs * self.range).to(self.q.dtype)


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


register_attention('attend_blockwise', _forward, _backward, row_statistics=0)
