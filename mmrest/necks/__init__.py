"""Necks. Importing this package registers them with mmengine's root registry."""

from mmrest.necks.simple_fpn import SimpleFPN

__all__ = ['SimpleFPN']
