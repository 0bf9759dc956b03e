"""How many channels the images of a model have."""

from __future__ import annotations

from torch import Tensor, nn

from mmrest.backbones.pyramid import PyramidBackbone


def image_channels(model: nn.Module) -> int:
    """Channels of the images that a model takes.

    Args:
        model: A backbone, or what holds one: a detector, a segmentor, a wrapper of these.

    Returns:
        Those that one of our backbones is built for. Attributes of that name are something else in
        some of mmdet's: with them as many as the preprocessor has means, or 3.
    """
    ours = (module for module in model.modules() if isinstance(module, PyramidBackbone))
    if (backbone := next(ours, None)) is not None:
        return backbone.in_channels
    means = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    return means.numel() if isinstance(means, Tensor) else 3
