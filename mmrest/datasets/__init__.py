"""Data sets that the package makes itself."""

from mmrest.datasets.shapes import CLASSES, write_shapes

__all__ = ['CLASSES', 'write_shapes']
