"""Telling backbones which part of a padded batch is image."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from mmrest.backbones.pyramid import PyramidBackbone
from mmrest.errors import InputError


def use_valid_sizes(model: nn.Module) -> None:
    """Make a detector or segmentor tell its backbone each image's own size in the padded batch.

    The images' results then do not depend on how much the batch pads them in the backbone; see
    :meth:`mmrest.backbones.PyramidBackbone.valid_sizes`. The sizes are the data samples'
    ``img_shape``.

    Args:
        model: Changed in place; calling this twice is as good as once. Wrappers for several
            processes are looked through.

    Raises:
        InputError: The model's backbone is not one of mmrest.
    """
    while is_model_wrapper(model):
        model = model.module
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, PyramidBackbone):
        raise InputError(
            f'valid sizes are for the backbones of mmrest; that of {type(model).__name__} is '
            f'{type(backbone).__name__}'
        )
    if hasattr(model, '_valid_sizes_contexts'):
        return
    contexts = model._valid_sizes_contexts = ExitStack()

    def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        given = dict(zip(('inputs', 'data_samples'), args, strict=False)) | kwargs
        samples, inputs = given.get('data_samples'), given.get('inputs')
        sizes = [tuple(sample.img_shape[:2]) for sample in samples or ()]
        padded = any(size != tuple(inputs.shape[-2:]) for size in sizes)
        contexts.enter_context(backbone.valid_sizes(sizes if padded else None))

    model.register_forward_pre_hook(enter, with_kwargs=True)
    model.register_forward_hook(lambda *_: contexts.close(), always_call=True)


@HOOKS.register_module()
class ValidSizesHook(Hook):
    """``custom_hooks=[dict(type='ValidSizesHook')]``: :func:`use_valid_sizes` for a runner."""

    def before_run(self, runner: Runner) -> None:
        """Called by the runner before training, validation or testing."""
        use_valid_sizes(runner.model)
