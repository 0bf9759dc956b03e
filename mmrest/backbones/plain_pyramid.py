"""Maps of several strides from a single one, for plain transformers."""

from __future__ import annotations

import math

from torch import nn

from mmrest.backbones.layers import LayerNorm2d


class Upsample(nn.ConvTranspose2d):
    """Doubles a map by a transposed convolution.

    Args:
        channels: Of both maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 2, stride=2)


def rescale(stride: int, given: int, channels: int, learned: bool) -> nn.Module:
    """A map of one stride to one of another stride with the same channels.

    Neither form is described in ResFormer's paper. The whole models' parameters that it states
    agree with these and not with ViTDet's own, whose transposed convolutions halve the channels;
    see docs/parameters.md.

    Args:
        stride: A power of two.
        given: Of the map that is there, another.
        channels: Of both maps.
        learned: Enlarge by transposed convolutions (ViTDet, Section 3), or bilinearly.
    """
    if stride == given:
        return nn.Identity()
    steps = round(abs(math.log2(given / stride)))
    if stride > given:
        pools = [nn.MaxPool2d(2, 2, ceil_mode=True) for _ in range(steps)]
        return pools[0] if steps == 1 else nn.Sequential(*pools)
    if not learned:
        return nn.Upsample(scale_factor=given // stride, mode='bilinear')
    layers: list[nn.Module] = [Upsample(channels)]
    for _ in range(steps - 1):
        layers += [LayerNorm2d(channels, eps=1e-6), nn.GELU(), Upsample(channels)]
    return layers[0] if steps == 1 else nn.Sequential(*layers)


def quarters(depth: int) -> tuple[int, ...]:
    """The blocks that end each quarter of a depth."""
    return tuple(sorted({max(depth * (i + 1) // 4 - 1, 0) for i in range(4)}))
