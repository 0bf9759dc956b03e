"""Backbones. Importing this package registers them with mmengine's root registry."""

from mmrest.backbones.pyramid import PyramidBackbone
from mmrest.backbones.rest import ResT

__all__ = ['PyramidBackbone', 'ResT']
