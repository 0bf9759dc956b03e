"""Training at several resolutions, and testing over resolutions."""

from mmrest.multires.consistency import ScaleConsistencyLoss
from mmrest.multires.training import MultiResolutionDDP, make_multi_resolution

__all__ = ['MultiResolutionDDP', 'ScaleConsistencyLoss', 'make_multi_resolution']
