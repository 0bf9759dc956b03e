"""Layers that two or more families of backbones use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules import module as everywhere
from torch.utils.checkpoint import checkpoint

from mmrest.ops import (
    Convolution,
    MLPWeights,
    add_branch,
    add_norm_mlp,
    conv_tokens,
    convolve_in_strips,
    linear,
    strided_conv,
)
from mmrest.ops.products import prefers_onednn, saving_only
from mmrest.ops.ways import attention_way, requested_way

# Where a module keeps its hooks; torch keeps those of all modules under these names with _global.
_HOOKS = '_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks'


def as_map(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W): a view, in channels-last layout; a copy while compiling."""
    maps = x.permute(0, 3, 1, 2)
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        # inductor (torch 2.13) fails to tell that the strides of a view are in order where they
        # are expressions of a size that varies
        return maps.contiguous()
    return maps


def crop(maps: Tensor, size: tuple[int, int], dims: tuple[int, int] = (2, 3)) -> Tensor:
    """The top left ``size`` of maps whose height and width are ``dims``, contiguous."""
    if torch.compiler.is_exporting():
        # a view would make the program depend on whether anything is cut off
        for dim, length in zip(dims, size, strict=True):
            maps = maps.index_select(dim, torch.arange(length, device=maps.device))
        return maps.contiguous()
    compiling = torch.compiler.is_compiling()
    for dim, length in zip(dims, size, strict=True):
        # the gradient of a view is a copy, also where nothing is cut off
        if compiling or maps.shape[dim] != length:
            maps = maps.narrow(dim, 0, length)
    # a graph in which nothing is copied would hold for maps of which nothing is cut off alone
    return maps.clone(memory_format=torch.contiguous_format) if compiling else maps.contiguous()


def unobserved(*modules: nn.Module) -> bool:
    """Whether nobody can tell how these modules' outputs are made and what becomes of them.

    Then they may be made in another way, in parts, and be overwritten. Gradients, a compiler and
    hooks can tell, and who asks for the papers' equations.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or requested_way() == 'reference':
        return False
    return not are_hooked(*modules)


def are_hooked(*modules: nn.Module) -> bool:
    """Whether one of the modules has to be called as it is, for a hook to be called, too.

    Hooks look on, but also replace outputs and, as torch's pruning does, make weights. Those of the
    backward pass forbid to overwrite what the module returns.
    """
    if any(getattr(everywhere, f'_global{kind}') for kind in _HOOKS):
        return True
    return any(getattr(module, kind) for module in modules for kind in _HOOKS)


def can_fuse(*modules: nn.Module) -> bool:
    """True if these modules compute what their types say, so that an operator may do it for them.

    Anything else is called: adapters, pruned, quantised and parametrised layers, subclasses, and
    modules with hooks or with a ``forward`` of their own.
    """
    if any(type(module) not in _FUSIBLE or 'forward' in vars(module) for module in modules):
        return False
    return torch.compiler.is_compiling() or not are_hooked(*modules)


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(conv(x))``; a BatchNorm in evaluation becomes part of the convolution.

    Args:
        conv: A convolution.
        norm: What follows it.
        x: (B, C, H, W).
    """
    if not _folds(conv, norm):
        return norm(conv(x))
    return conv._conv_forward(x, *_fold(conv, norm))


def _folds(conv: nn.Conv2d, norm: nn.Module) -> bool:
    """Whether a norm is no more than another weight and bias of its convolution."""
    if not can_fuse(conv, norm) or not isinstance(norm, _BatchNorm):
        return False
    tracked = norm.track_running_stats and norm.affine
    return tracked and not norm.training and unobserved(conv, norm)


def _fold(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    bias = shift if conv.bias is None else shift + conv.bias * scale
    return conv.weight * scale[:, None, None, None], bias


def conv_norm_relu_conv(
    convs: Sequence[nn.Conv2d], norms: Sequence[nn.Module], x: Tensor
) -> Tensor:
    """Convolutions with a norm and a ReLU between every two of them.

    Args:
        convs: One more than ``norms``; square kernels, strides and zero padding, no groups.
        norms: What follows each but the last.
        x: (B, C, H, W).
    """
    last = convs[-1]
    pairs = list(zip(convs, norms, strict=False))
    if (
        prefers_onednn(x)
        and unobserved(last)
        and can_fuse(last)
        and all(_folds(*pair) for pair in pairs)
    ):
        weights = [*(_fold(*pair) for pair in pairs), (last.weight, last.bias)]
        given = [
            Convolution(*weight, conv.stride[0], conv.padding[0])
            for conv, weight in zip(convs, weights, strict=True)
        ]
        return convolve_in_strips(x, given)
    x = x.contiguous(memory_format=torch.channels_last)
    if not torch.is_grad_enabled():
        for conv, norm in pairs:
            x = conv_norm(conv, norm, x)
            x = x.relu_() if unobserved(conv, norm) else x.relu()
        return last(x)
    x = convs[0](x)
    for norm, conv in zip(norms, convs[1:], strict=True):
        # statistics of other processes are not asked for twice
        once = isinstance(norm, nn.SyncBatchNorm)
        x = conv(norm(x).relu_()) if once else recompute(_NormReluConv(norm, conv), x, ends=[conv])
    return x


class _NormReluConv:
    """``conv(relu(norm(x)))``, which changes the norm's running statistics the first time only."""

    def __init__(self, norm: nn.Module, conv: nn.Conv2d) -> None:
        self.norm, self.conv, self.again = norm, conv, False
        self.training = norm.training

    def __call__(self, x: Tensor) -> Tensor:
        if not self.again:
            self.again = True
            return self.conv(self._relu(self.norm(x)))
        buffers = {name: buffer.clone() for name, buffer in self.norm.named_buffers()}
        mode, self.norm.training = self.norm.training, self.training
        try:
            normed = functional_call(self.norm, buffers, x)
        finally:  # checkpointing leaves by an exception once it has what it needs
            self.norm.training = mode
        return self.conv(self._relu(normed))

    def _relu(self, normed: Tensor) -> Tensor:
        # nobody else needs what a BatchNorm returns; a compiler sees that for itself
        own = isinstance(self.norm, _BatchNorm) and not torch.compiler.is_compiling()
        return normed.relu_() if own and not are_hooked(self.norm) else normed.relu()


def recompute(function: Callable[..., Any], *inputs: Any, ends: Sequence[nn.Module] = ()) -> Any:
    """``function(*inputs)``, which the backward pass computes anew instead of storing its inside.

    For what is quick to compute beside its size. The linear layers and strided convolutions among
    ``ends`` make what the function returns, and nothing is computed from it; the second time they
    are left out, unless a hook or another module in their place could tell. A compiler decides
    all that for itself. As with all of torch's checkpointing, parameters must not change between
    the two passes.
    """
    compiling = torch.compiler.is_compiling()
    way = requested_way()
    if not torch.is_grad_enabled() or compiling or way == 'reference':
        return function(*inputs)

    plain = all(type(module) in (Linear, Halve, nn.Conv2d) for module in ends)
    leaves_out = bool(ends) and plain and not are_hooked(*ends)
    passes = count(1)

    def in_the_same_way(*given: Any) -> Any:
        again = next(passes) > 1
        with attention_way(way), saving_only() if again and leaves_out else nullcontext():
            return function(*given)

    return checkpoint(in_the_same_way, *inputs, use_reentrant=False, preserve_rng_state=False)


class Linear(nn.Linear):
    """``nn.Linear``, by the faster of a processor's two libraries."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return linear(x, self.weight, self.bias)


class TokenConv(nn.Conv2d):
    """``nn.Conv2d`` with the channels on the last axis; square kernel, stride and padding."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, in_channels) -> (B, h, w, out_channels)."""
        return conv_tokens(x, self.weight, self.bias, self.stride[0], self.padding[0], self.groups)


class Halve(nn.Conv2d):
    """A 3x3 convolution that halves a map's sides, rounding up.

    Args:
        in_channels: Channels of the map.
        channels: Channels of the smaller map.
        bias: Whether it has one.
    """

    def __init__(self, in_channels: int, channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, channels, 3, stride=2, padding=1, bias=bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return strided_conv(input, weight, bias, self.stride[0], self.padding[0])


class Double(nn.ConvTranspose2d):
    """A transposed convolution that doubles a map's sides: each pixel becomes 2x2 of its own.

    Args:
        channels: Of both maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels, 2 H, 2 W)."""
        if not prefers_onednn(x):
            return super().forward(x)
        # no pixel is written to twice, so that it is a linear layer
        batch, channels, height, width = x.shape
        weight = self.weight.permute(2, 3, 1, 0).reshape(-1, channels)
        pixels = linear(x.permute(0, 2, 3, 1), weight, self.bias.repeat(4))
        pixels = pixels.view(batch, height, width, 2, 2, -1).transpose(2, 3)
        return as_map(pixels.reshape(batch, 2 * height, 2 * width, -1))


class PixelAttention(nn.Module):
    """ResT's position encoding for any image size: x * sigmoid(depthwise3x3(x)).

    ResT (arXiv 2105.13677), Section 3.3, "PA".

    Args:
        channels: Channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pa_conv = TokenConv(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        # another module in its place might return what it was given
        if not can_fuse(self.pa_conv) or not unobserved(self.pa_conv):
            return recompute(self._weigh, x)
        weights = self.pa_conv(x).sigmoid_()
        return weights.mul_(x) if weights.dtype == x.dtype else x * weights

    def _weigh(self, x: Tensor) -> Tensor:
        return x * self.pa_conv(x).sigmoid()


class MLP(nn.Module):
    """Two linear layers with a GELU between them.

    Args:
        channels: Input and output channels.
        hidden: Channels between the two.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) -> (..., channels)."""
        return self.fc2(F.gelu(self.fc1(x)))


@MODELS.register_module()
class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map; ``norm_cfg=dict(type='LN2d')`` in any neck or head."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DropPath(nn.Module):
    """Lets samples skip a branch in training, and scales it for the others to make up for it.

    Deep Networks with Stochastic Depth (arXiv 1603.09382), Section 3.

    Args:
        rate: Probability that a sample skips the branch.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        # 1 - rate for a compiler, which takes a number for a constant and compiles every block anew
        self.compiled_keep: Tensor | None = None

    def forward(self, branch: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        factors = self.draw(branch)
        return branch if factors is None else branch * factors

    def draw(self, x: Tensor) -> Tensor | None:
        """A factor for each sample of ``x``, (B, 1, ..., 1); None where no sample is dropped."""
        if not self.training:
            return None
        keep = self.compiled_keep
        if keep is None:
            if self.rate == 0:
                return None
            keep = 1.0 - self.rate
        kept = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) < keep
        # nothing is kept at a rate of 1
        scale = keep if isinstance(keep, Tensor) or keep else 1.0
        return (kept / scale).to(x.dtype)

    def extra_repr(self) -> str:
        """The rate, in the model's printed form."""
        return f'rate={self.rate:g}'


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and beside a shortcut.

    Args:
        channels: Channels on the last axis.
        attn: Keeps its input's shape. A class that says ``takes_norm`` takes the map, the LayerNorm
            in front of it and ``context``, and never returns what it was given; any other module
            takes the normalised map alone.
        mlp_ratio: Hidden channels of the MLP relative to ``channels``.
        drop_path: Probability that a sample skips a branch in training.
        norm_eps: Of the LayerNorms.
    """

    def __init__(
        self, channels: int, attn: nn.Module, mlp_ratio: float, drop_path: float, norm_eps: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, norm_eps)
        self.attn = attn
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels, norm_eps)
        self.mlp = MLP(channels, int(channels * mlp_ratio))

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """(B, ..., channels) -> (B, ..., channels); ``context`` goes to ``attn``."""
        own = 'takes_norm' in vars(type(self.attn))
        branch = self.attn(x, self.norm1, *context) if own else self.attn(self.norm1(x))
        norm, mlp, drop_path = self.norm2, self.mlp, self.drop_path
        if not can_fuse(drop_path):
            x = x + drop_path(branch)
            return x + drop_path(mlp(norm(x)))
        x = self._add(x, branch, drop_path.draw(branch), own and unobserved(*self.attn.modules()))
        if not (can_fuse(norm, mlp) and can_fuse(mlp.fc1, mlp.fc2)):
            return x + drop_path(mlp(norm(x)))
        fc1, fc2 = mlp.fc1, mlp.fc2
        weights = MLPWeights(norm.weight, norm.bias, fc1.weight, fc1.bias, fc2.weight, fc2.bias)
        return add_norm_mlp(x, weights, norm.eps, drop_path.draw(x))

    def _add(self, x: Tensor, branch: Tensor, kept: Tensor | None, is_ours: bool) -> Tensor:
        if kept is None and is_ours and branch.dtype == x.dtype:
            return branch.add_(x)
        return add_branch(x, branch, kept)


# Whose computation an operator may take over; subclasses may compute something else.
_FUSIBLE = {
    *(nn.Linear, Linear, nn.LayerNorm, nn.Conv2d, TokenConv, Halve),
    *(nn.BatchNorm2d, nn.SyncBatchNorm, MLP, DropPath),
}


def stochastic_depth_rates(final: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Drop-path rate of every block, growing linearly from 0 to ``final``; one list a stage.

    Deep Networks with Stochastic Depth (arXiv 1603.09382), Section 3, linear decay.
    """
    last = max(sum(depths) - 1, 1)
    rates = iter([final * block / last for block in range(sum(depths))])
    return [[next(rates) for _ in range(depth)] for depth in depths]


def initialize(module: nn.Module) -> None:
    """Initial weights of the papers' models, for ``nn.Module.apply``.

    Linear and convolution weights are truncated normal with a deviation of 0.02, as in the authors'
    code; norms are 1 and 0, which is PyTorch's own.
    """
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
