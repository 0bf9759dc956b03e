"""What plain transformers share: levels that are made from the maps of their blocks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Set

from torch import Tensor, nn

from mmrest.backbones.layers import LayerNorm2d
from mmrest.backbones.pyramid import PyramidBackbone
from mmrest.ops import crop


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


class PlainBackbone(PyramidBackbone):
    """A stem, and blocks that all keep the map's size; a family builds them in its constructor.

    Attributes:
        embed: The stem.
        blocks: Those that some level needs.
        depth: Blocks of the whole network.
        level_blocks: The block that each output level is made from.
        out_norm: ``'branch'`` has ``branch_norms``, one for each block in ``level_blocks``.
        pyramid: What makes each level from its block's map.
        pyramid_kind: A part of the names in ``pyramid``.
    """

    embed: nn.Module
    blocks: nn.ModuleList
    depth: int
    level_blocks: tuple[int, ...]
    out_norm: str
    pyramid: nn.ModuleDict
    pyramid_kind: str | None

    def make_pyramid(self, kind: str | None, given: int, channels: int) -> None:
        """Build ``pyramid`` for ``out_indices``, and say what comes out.

        Args:
            kind: ``'simple'`` is learned; None leaves the maps as they are.
            given: Stride of the blocks' maps.
            channels: Of all maps.
        """
        self.pyramid_kind = kind
        strides = [given if kind is None else 4 * 2**i for i in self.out_indices]
        # the kind is part of the name: weights for one kind must not be loaded into the other
        self.pyramid = nn.ModuleDict(
            {
                f'{kind}_{i}': rescale(stride, given, channels, learned=kind == 'simple')
                for i, stride in zip(self.out_indices, strides, strict=True)
            }
        )
        self.out_channels = (channels,) * len(strides)
        self.out_strides = tuple(strides)

    def make_levels(self, maps: Mapping[int, Tensor], images: Tensor) -> tuple[Tensor, ...]:
        """The output levels.

        Args:
            maps: Block -> (B, channels, h, w).
            images: (B, in_channels, H, W).
        """
        sizes = self.map_sizes(tuple(images.shape[-2:]))
        # images are padded to whole patches, of which finer levels have a part
        return tuple(
            crop(rescaled(maps[block]), size)
            for rescaled, block, size in zip(
                self.pyramid.values(), self.level_blocks, sizes, strict=True
            )
        )

    def stage_modules(self, stage: int) -> Iterable[nn.Module]:
        """See :meth:`PyramidBackbone.stage_modules`; the i-th stage is the i-th block."""
        if stage == 0:
            return [self.embed]
        return [self.blocks[stage - 1]] if stage <= len(self.blocks) else []

    def place_key(self, key: str, keys: Set[str]) -> str | None:
        """See :meth:`PyramidBackbone.place_key`."""
        key = key.replace('cls_norm.', f'branch_norms.{self.depth - 1}.')
        if match := re.match(r'blocks\.(\d+)\.', key):
            return None if len(self.blocks) <= int(match[1]) < self.depth else key
        if match := re.match(r'branch_norms\.(\d+)\.', key):
            used = self.out_norm == 'branch' and int(match[1]) in self.level_blocks
            return None if not used and int(match[1]) < self.depth else key
        if match := re.match(r'pyramid\.(.+?)_(\d+)\.', key):
            unused = int(match[2]) not in self.out_indices and match[1] == self.pyramid_kind
            return None if unused or self.pyramid_kind is None else key
        return key
