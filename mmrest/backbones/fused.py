"""What modules become once a model is used for inference alone; see :mod:`mmrest.inference`.

Their parameters have ``fused`` in their names, so that a fused model's state never passes for that
of the model that it was made from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmrest.backbones.layers import can_fuse
from mmrest.backbones.spatial_reduction import SpatialReductionAttention
from mmrest.errors import InputError
from mmrest.ops.cpu.matmul import even_step
from mmrest.ops.cpu.strips import Convolution, convolve_in_strips
from mmrest.ops.dispatch import works_in_pieces

# Elements of the queries that are attended at a time;
# docs/scripts/ablation.py --constants tries others.
_CHUNK_ELEMENTS = 2**21


class Fusible(ABC):
    """A module that has another form for inference."""

    @abstractmethod
    def fuse(self) -> nn.Module:
        """That form, or the module itself where its parts are not those that it was built with."""


class Fused(nn.Module, ABC):
    """A module for inference alone."""

    def forward(self, x: Tensor) -> Tensor:
        """What the module that it was made from computes in evaluation.

        Raises:
            InputError: The model is in training.
        """
        if self.training:
            raise InputError(
                'the model is fused for inference (mmrest.inference.fuse) and cannot be trained; '
                'train the model that it was made from'
            )
        return self.infer(x)

    @abstractmethod
    def infer(self, x: Tensor) -> Tensor:
        """The computation."""

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        own = {f'{prefix}{name}' for name in self.state_dict()}
        if not own & state.keys():
            raise InputError(
                f'the model is fused for inference (mmrest.inference.fuse), and the checkpoint is '
                f'not: it has no {min(own)}. Load it first, then fuse.'
            )
        super()._load_from_state_dict(state, prefix, *args)


def can_fold(conv: nn.Module, norm: nn.Module) -> bool:
    """True if the norm is a BatchNorm with statistics that a plain convolution can take over."""
    plain = can_fuse(conv, norm) and isinstance(norm, _BatchNorm) and isinstance(conv, nn.Conv2d)
    return plain and norm.track_running_stats and norm.affine and conv.padding_mode == 'zeros'


class FoldedConv2d(Fused):
    """A convolution and perhaps the BatchNorm behind it, as one convolution.

    Args:
        conv: A plain convolution.
        norm: See :func:`can_fold`.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module | None = None) -> None:
        super().__init__()
        weight, bias = conv.weight, conv.bias
        if norm is not None:
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            shift = norm.bias - norm.running_mean * scale
            bias = shift if bias is None else shift + bias * scale
            weight = weight * scale[:, None, None, None]
        self.fused_weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.fused_bias = None
        if bias is not None:
            self.fused_bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.options = dict(
            stride=conv.stride, padding=conv.padding, dilation=conv.dilation, groups=conv.groups
        )
        self.eval()

    def infer(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, h, w)."""
        return F.conv2d(x, self.fused_weight, self.fused_bias, **self.options)


class ConvsInStrips(Fused):
    """Convolutions with ReLUs between them, on a processor a strip of rows at a time.

    Args:
        convs: Folded; square kernels, strides and zero padding, no groups.
    """

    def __init__(self, convs: Sequence[FoldedConv2d]) -> None:
        super().__init__()
        self.fused_convs = nn.ModuleList(convs)
        self.eval()

    def infer(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, h, w), in channels-last layout."""
        if not works_in_pieces(x):
            x = x.contiguous(memory_format=torch.channels_last)
            for i, conv in enumerate(self.fused_convs):
                x = conv(x.relu() if i else x)
            return x
        weights = [(conv.fused_weight, conv.fused_bias) for conv in self.fused_convs]
        options = [(c.options['stride'][0], c.options['padding'][0]) for c in self.fused_convs]
        return convolve_in_strips(
            x, [Convolution(*pair, *given) for pair, given in zip(weights, options, strict=True)]
        )


def _is_simple(conv: nn.Module) -> bool:
    """True for a plain convolution without groups, dilation and sides of different lengths."""
    if type(conv) is not nn.Conv2d or not can_fuse(conv) or conv.padding_mode != 'zeros':
        return False
    square = all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding))
    return square and conv.groups == 1 and conv.dilation == (1, 1)


def fuse_stem(convs: Sequence[nn.Module], norms: Sequence[nn.Module]) -> ConvsInStrips | None:
    """Convolutions with a norm and a ReLU between every two of them, as one module.

    Args:
        convs: One more than ``norms``.
        norms: What follows each but the last.

    Returns:
        None where a convolution or a norm is not what it was built as.
    """
    last = convs[-1]
    pairs = list(zip(convs, norms, strict=False))
    if not all(can_fold(*pair) for pair in pairs) or not all(_is_simple(conv) for conv in convs):
        return None
    return ConvsInStrips([*(FoldedConv2d(*pair) for pair in pairs), FoldedConv2d(last)])


class AttentionInChunks(Fused):
    """Attention of a chunk of queries at a time on a processor.

    Neither all queries nor all that is attended are then in memory.

    Args:
        attention: What it makes of a token does not depend on the other queries.
    """

    def __init__(self, attention: SpatialReductionAttention) -> None:
        super().__init__()
        self.fused_attention = attention
        self.eval()

    def infer(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, H, W, channels)."""
        attention = self.fused_attention
        if not works_in_pieces(x):
            return attention(x)
        k, v, *extras = attention.prepare(x)
        given = x.flatten(1, 2), *extras
        out = torch.empty_like(given[0])
        batch, count, channels = out.shape
        step = even_step(count, max(1, _CHUNK_ELEMENTS // (batch * channels)))
        chunks = zip(*(t.split(step, dim=1) for t in (out, *given)), strict=True)
        for target, tokens, *others in chunks:
            target.copy_(attention.attend(tokens, k, v, *others))
        return out.view(x.shape)


class FusedEmbed(nn.Module):
    """A stem or patch embedding without norms.

    Args:
        conv: (B, in_channels, H, W) -> (B, channels, h, w).
        pos: Position encoding.
    """

    def __init__(self, conv: nn.Module, pos: nn.Module) -> None:
        super().__init__()
        self.fused_conv = conv
        self.pos = pos
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, h, w, channels)."""
        return self.pos(self.fused_conv(x).permute(0, 2, 3, 1))
