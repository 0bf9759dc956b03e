"""How many channels the images of a model have, and whether its preprocessor gives as many."""

from __future__ import annotations

from torch import Tensor, nn

from mmrest.backbones.pyramid import PyramidBackbone
from mmrest.errors import InputError
from mmrest.wrappers import unwrap_model

# of mmdet and mmseg; what a class of somebody's own does with channels is its own affair
_KNOWN = 'DetDataPreprocessor', 'SegDataPreProcessor'


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


def require_image_channels(model: nn.Module) -> None:
    """Check that the preprocessor can give as many channels as the backbone takes.

    Args:
        model: A detector or segmentor, perhaps in its wrappers.

    Raises:
        InputError: The preprocessor's means, or its swap of red and blue, are for images of another
            number of channels.
    """
    model = unwrap_model(model)
    backbone = getattr(model, 'backbone', None)
    preprocessor = getattr(model, 'data_preprocessor', None)
    kind = type(preprocessor).__name__
    if not isinstance(backbone, PyramidBackbone) or kind not in _KNOWN:
        return
    takes = backbone.in_channels
    means = preprocessor.mean.numel() if preprocessor._enable_normalize else 1
    # mmseg's swaps nothing where there are not three
    swaps = kind == 'DetDataPreprocessor' and preprocessor._channel_conversion
    if means in (1, takes) and not (swaps and takes != 3):
        return
    found = [f'{means} means'] * (means not in (1, takes))
    found += ['bgr_to_rgb or rgb_to_bgr, which gives three channels'] * (swaps and takes != 3)
    mend = (
        'mean=[...], std=[...] of one number each'
        if takes == 1
        else 'mean=None, std=None, with a Normalize in the pipelines'
    )
    raise InputError(
        f'model.backbone takes images of {takes} channels (in_channels={takes}), and '
        f'model.data_preprocessor has {" and ".join(found)}: set its bgr_to_rgb=False, {mend}'
    )
