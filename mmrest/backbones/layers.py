"""Layers that two or more families of backbones use, as the papers draw them.

A forward pass calls every module and uses what it returns. An operator of :mod:`mmrest.ops` does
the work of modules only inside the one that owns them, and only where :func:`can_fuse` and
:func:`are_untouched` allow it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils.checkpoint import checkpoint

from mmrest.ops import conv_tokens, linear, mlp, normalized_mlp, use_implementation
from mmrest.ops.dispatch import is_reference, requested, uses_onednn
from mmrest.ops.relative import resize
from mmrest.ops.strips import compute_in_strips, cut_in_strips
from mmrest.ops.tracing import is_exporting

# Where a module keeps its hooks; torch keeps those of all modules under these names with _global.
_HOOKS = '_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks'
# Whose computation an operator may take over; subclasses may compute something else.
_FUSIBLE = nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.ReLU


def can_fuse(*modules: nn.Module) -> bool:
    """True if an operator may do what these modules do, without calling them.

    They must be exactly of a known type. Adapters, pruned, quantised and parametrised layers,
    subclasses, and modules with hooks or with a ``forward`` of their own have to be called.
    """
    return all(type(module) in _FUSIBLE for module in modules) and are_untouched(*modules)


def are_untouched(*modules: nn.Module) -> bool:
    """True if calling these modules does no more than their classes say.

    That is, without hooks and without a ``forward`` of their own. While compiling, hooks are not
    asked for: a graph would depend on there being none.
    """
    if any('forward' in module.__dict__ for module in modules):
        return False
    if torch.compiler.is_compiling():
        return True
    hooked = any(getattr(torch_module, f'_global{kind}') for kind in _HOOKS)
    return not hooked and not any(getattr(m, kind) for m in modules for kind in _HOOKS)


def apply_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``; a plain ``nn.Linear`` is computed by the faster of a processor's libraries.

    Args:
        layer: (..., in_channels) -> (..., out_channels).
        x: (..., in_channels).
    """
    return linear(x, layer.weight, layer.bias) if can_fuse(layer) else layer(x)


class TokenConv(nn.Conv2d):
    """``nn.Conv2d`` with the channels on the last axis; square stride and padding."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, in_channels) -> (B, h, w, out_channels)."""
        return conv_tokens(x, self.weight, self.bias, self.stride[0], self.padding[0], self.groups)


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
        return x * self.pa_conv(x).sigmoid()


class MLP(nn.Module):
    """Two linear layers with a GELU between them.

    Args:
        channels: Of the input.
        hidden: Channels between the two.
        out_channels: Of the output; None takes those of the input.
    """

    def __init__(self, channels: int, hidden: int, out_channels: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels if out_channels is None else out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) -> (..., out_channels)."""
        fc1, fc2 = self.fc1, self.fc2
        if can_fuse(fc1, fc2):
            return mlp(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias)
        return fc2(F.gelu(fc1(x)))


def normalize_and_mlp(norm: nn.Module, layers: nn.Module, x: Tensor) -> Tensor:
    """``layers(norm(x))``; a LayerNorm and an :class:`MLP` of tokens may be one operator.

    Args:
        norm: Over the channels.
        layers: An MLP of some kind.
        x: (..., channels).
    """
    # a compiler has better things to do with a LayerNorm
    if torch.compiler.is_compiling() or not uses_onednn(x):
        return layers(norm(x))
    known = type(norm) is nn.LayerNorm and type(layers) is MLP and are_untouched(norm, layers)
    if known and can_fuse(layers.fc1, layers.fc2) and norm.normalized_shape == x.shape[-1:]:
        given = norm.weight, norm.bias, norm.eps
        fc1, fc2 = layers.fc1, layers.fc2
        return normalized_mlp(x, *given, fc1.weight, fc1.bias, fc2.weight, fc2.bias)
    return layers(norm(x))


class ConvMLP(nn.Module):
    """An MLP with a depthwise 3x3 convolution of the hidden map, ``fc2(act2(conv(act1(fc1(x)))))``.

    Args:
        channels: Of input and output.
        hidden: Channels between the two.
        act1: In front of the convolution.
        act2: Behind it.
    """

    def __init__(self, channels: int, hidden: int, act1: nn.Module, act2: nn.Module) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.act1 = act1
        self.conv = TokenConv(hidden, hidden, 3, padding=1, groups=hidden)
        self.act2 = act2
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, channels) -> (B, H, W, channels)."""
        if not self._may_cut(x):
            return self._compute(x, slice(None))
        row_elements = x.shape[2] * self.fc1.out_features
        return compute_in_strips(self._compute, x, cut_in_strips(*x.shape[:2], row_elements))

    def _compute(self, x: Tensor, rows: slice) -> Tensor:
        hidden = self.act2(self.conv(self.act1(apply_linear(self.fc1, x))))
        return apply_linear(self.fc2, hidden[:, rows])

    def _may_cut(self, x: Tensor) -> bool:
        """True in inference on a processor, if nobody would see that the map comes in strips."""
        return (
            # first, since the strips would be constants of the program
            not torch.compiler.is_compiling()
            and not torch.is_grad_enabled()
            and x.device.type == 'cpu'
            and can_fuse(self.fc1, self.fc2)
            and are_untouched(self.act1, self.conv, self.act2)
            and not is_reference(x)
        )


@MODELS.register_module()
class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map; ``type='mmrest.LayerNorm2d'`` in a neck or head."""

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
        if not self.training:
            return branch
        keep = self.compiled_keep
        if keep is None:
            if self.rate == 0:
                return branch
            keep = 1.0 - self.rate
        kept = torch.rand(branch.shape[0], *[1] * (branch.ndim - 1), device=branch.device) < keep
        # nothing is kept at a rate of 1
        scale = keep if isinstance(keep, Tensor) or keep else 1.0
        return branch * (kept / scale).to(branch.dtype)

    def extra_repr(self) -> str:
        """The rate, in the model's printed form."""
        return f'rate={self.rate:g}'


class Block(nn.Module):
    """A transformer block: attention and MLP, each behind a norm and beside a shortcut.

    Args:
        norm1: In front of the attention.
        attn: Keeps the shape of its input.
        norm2: In front of the MLP.
        mlp: Keeps the shape of its input.
        drop_path: On both branches.
    """

    def __init__(
        self,
        norm1: nn.Module,
        attn: nn.Module,
        norm2: nn.Module,
        mlp: nn.Module,
        drop_path: nn.Module,
    ) -> None:
        super().__init__()
        self.norm1 = norm1
        self.attn = attn
        self.norm2 = norm2
        self.mlp = mlp
        self.drop_path = drop_path

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """(B, ..., channels) -> (B, ..., channels); ``context``, if any, goes to ``attn`` too."""
        x = x + self.drop_path(call_in_context(self.attn, self.norm1(x), *context))
        return x + self.drop_path(normalize_and_mlp(self.norm2, self.mlp, x))


def layer_norm_block(
    channels: int, attn: nn.Module, mlp_ratio: float, drop_path_rate: float, norm_eps: float
) -> Block:
    """The usual block: LayerNorms, and an MLP with a GELU.

    Args:
        channels: On the last axis.
        attn: Keeps the shape of its input.
        mlp_ratio: Hidden channels of the MLP relative to ``channels``.
        drop_path_rate: Probability that a sample skips a branch in training.
        norm_eps: Of the LayerNorms.
    """
    mlp = MLP(channels, int(channels * mlp_ratio))
    norm1, norm2 = nn.LayerNorm(channels, norm_eps), nn.LayerNorm(channels, norm_eps)
    return Block(norm1, attn, norm2, mlp, DropPath(drop_path_rate))


def call_in_context(module: nn.Module, x: Tensor, *context: Any) -> Tensor:
    """``module(x, *context)``; a module that was put in ours' place may take ``x`` alone."""
    if context and not torch.compiler.is_compiling():
        try:
            inspect.signature(module.forward).bind(x, *context)
        except TypeError:
            return module(x)
    return module(x, *context)


def run_layers(layers: Iterable[nn.Module], x: Tensor, *context: Any, with_cp: bool) -> Tensor:
    """The layers one after the other; ``with_cp`` recomputes each in the backward pass.

    Args:
        layers: Each from ``x`` and ``context`` to the next ``x``.
        x: What the first takes.
        context: What each takes besides.
        with_cp: Save memory, for the time of another forward pass.
    """
    options: dict[str, Any] = dict(use_reentrant=False)
    if with_cp and not torch.compiler.is_compiling():
        # the backward pass may run in another context, or thread
        name = requested()
        options['context_fn'] = lambda: (nullcontext(), use_implementation(name))
    for layer in layers:
        if with_cp and torch.is_grad_enabled():
            x = checkpoint(layer, x, *context, **options)
        else:
            x = layer(x, *context)
    return x


def as_map(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W): a view, in channels-last layout; a copy while compiling."""
    maps = x.permute(0, 3, 1, 2)
    return maps.contiguous() if _are_strides_compiled() else maps


def as_tokens(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), as :func:`as_map`."""
    x = maps.permute(0, 2, 3, 1)
    return x.contiguous() if _are_strides_compiled() else x


def _are_strides_compiled() -> bool:
    # inductor (torch 2.13) fails to tell that the strides of a view are in order where they are
    # expressions of a size that varies, or takes that size for a constant
    return torch.compiler.is_compiling() and not is_exporting()


def resize_positions(table: Tensor, grid: tuple[int, int], mode: str) -> Tensor:
    """A table of absolute positions for another grid.

    Args:
        table: (1, [1 +] side^2, channels), perhaps a class token's position first.
        grid: (rows, columns).
        mode: ``'bilinear'`` or ``'bicubic'``.

    Returns:
        (1, [1 +] rows columns, channels).
    """
    side = math.isqrt(table.shape[1])
    first, cells = table[:, : table.shape[1] - side**2], table[:, table.shape[1] - side**2 :]
    maps = cells.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    return torch.cat([first, resize(maps, grid, mode).flatten(2).transpose(1, 2)], dim=1)


def fit_positions(table: Tensor, shape: torch.Size, mode: str) -> Tensor:
    """A file's table of absolute positions for an image of another size, or as it is if none.

    The position of a class token is left out where the own table has none.

    Args:
        table: (1, [1 +] side^2, channels).
        shape: Of the own table.
        mode: See :func:`resize_positions`.
    """
    if table.ndim != 3 or table.shape[2] != shape[2]:
        return table
    sides = [math.isqrt(length) for length in (table.shape[1], shape[1])]
    first = [n - side**2 for n, side in zip((table.shape[1], shape[1]), sides, strict=True)]
    if first not in ([0, 0], [1, 0], [1, 1]):
        return table
    return resize_positions(table[:, first[0] - first[1] :], (sides[1], sides[1]), mode)


def stochastic_depth_rates(final: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Drop-path rate of every block, growing linearly from 0 to ``final``; one list a stage.

    Deep Networks with Stochastic Depth (arXiv 1603.09382), Section 3, linear decay.
    """
    last = max(sum(depths) - 1, 1)
    rates = iter([final * block / last for block in range(sum(depths))])
    return [[next(rates) for _ in range(depth)] for depth in depths]


def initialize(module: nn.Module) -> None:
    """Initial weights of ResT, ResTv2 and ResFormer, for ``nn.Module.apply``.

    Linear and convolution weights are truncated normal with a deviation of 0.02, as in the authors'
    code; norms are 1 and 0, which is PyTorch's own.
    """
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def initialize_linear(module: nn.Module) -> None:
    """As :func:`initialize`, but convolutions are left to PyTorch: PVT's and others'."""
    if isinstance(module, nn.Linear):
        initialize(module)


def initialize_by_fan_out(module: nn.Module) -> None:
    """As :func:`initialize`, but convolutions by He et al.'s rule (arXiv 1502.01852) for ReLUs.

    Their weights are normal with a variance of 2 over the outputs that a weight reaches.
    """
    initialize(module)
    if isinstance(module, nn.Conv2d):
        reached = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / reached))
