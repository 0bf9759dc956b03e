"""Layers that two or more families of backbones use."""

from __future__ import annotations

from mmcv.cnn.bricks.drop import DropPath
from torch import Tensor, nn

__all__ = ['MLP', 'DropPath', 'PixelAttention', 'initialize', 'stochastic_depth_rates']


class PixelAttention(nn.Module):
    """ResT's position encoding for any image size: x * sigmoid(depthwise3x3(x)).

    ResT (arXiv 2105.13677), Section 3.3, "PA".

    Args:
        channels: Channels of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pa_conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x * self.pa_conv(x).sigmoid()


class MLP(nn.Module):
    """Two linear layers with a GELU between them, on the last axis.

    Args:
        channels: Input and output channels.
        hidden: Channels between the two.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) -> (..., channels)."""
        return self.fc2(self.act(self.fc1(x)))


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
