"""ResT, ResTv2 and ResFormer backbones for MMDetection 3.x and MMSegmentation 1.x."""

from mmrest.stack import check_stack
from mmrest.version import __version__

check_stack()

from mmrest import multires  # noqa: E402, F401  (registers; the check of the stack comes first)
from mmrest.backbones import ResFormer, ResT, ResTV2  # noqa: E402
from mmrest.engine import compiling, fusing, layer_decay, pictures, valid_sizes  # noqa: E402, F401  (registers)
from mmrest.necks import SimpleFPN  # noqa: E402

__all__ = ['ResFormer', 'ResT', 'ResTV2', 'SimpleFPN', '__version__']
