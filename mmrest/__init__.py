"""ResT and ResFormer backbones for MMDetection 3.x and MMSegmentation 1.x."""

from mmrest.stack import check_stack
from mmrest.version import __version__

check_stack()

from mmrest.backbones import ResT  # noqa: E402  (the check comes first)

__all__ = ['ResT', '__version__']
