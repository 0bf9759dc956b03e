"""How many channels the images of a model have."""

from __future__ import annotations

from torch import nn

from mmrest.backbones.pyramid import PyramidBackbone


def image_channels(model: nn.Module) -> int:
    """Channels of the images that a model takes.

    Args:
        model: A backbone, or what holds one: a detector, a segmentor, a wrapper of these.

    Returns:
        Those that one of our backbones is built for; 3 with another, since attributes of that name
        are something else in some of mmdet's.
    """
    ours = (module for module in model.modules() if isinstance(module, PyramidBackbone))
    return next((backbone.in_channels for backbone in ours), 3)
