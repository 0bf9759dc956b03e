"""Backbones. Importing this package registers them with mmengine's root registry."""

from mmrest.backbones.mvit_v2 import MViTV2
from mmrest.backbones.pyramid import BACKBONES, PyramidBackbone, register_backbone
from mmrest.backbones.resformer import ResFormer
from mmrest.backbones.rest import ResT
from mmrest.backbones.rest_v2 import ResTV2

__all__ = [
    'BACKBONES',
    'MViTV2',
    'PyramidBackbone',
    'ResFormer',
    'ResT',
    'ResTV2',
    'register_backbone',
]
