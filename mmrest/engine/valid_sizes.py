"""Telling backbones which part of a padded batch is image."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from mmrest.backbones.pyramid import PyramidBackbone
from mmrest.errors import InputError
from mmrest.wrappers import unwrap_model


def use_valid_sizes(model: nn.Module) -> None:
    """Make a detector or segmentor tell its backbone each image's own size in the padded batch.

    The backbone's maps of an image then do not depend on how much the batch pads it; see
    :meth:`mmrest.backbones.PyramidBackbone.valid_sizes`. (What neck and heads compute beyond the
    image's edge still does.) The sizes are the data samples' ``img_shape``. Windows that a
    segmentor slides over an image (``test_cfg.mode='slide'``) are taken as they are.

    Args:
        model: Changed in place; calling this twice is as good as once. Wrappers for several
            processes and for test-time augmentation are looked through.

    Raises:
        InputError: The model's backbone is not one of mmrest.
    """
    model = unwrap_model(model)
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, PyramidBackbone):
        raise InputError(
            f'valid sizes are for the backbones of mmrest; that of {type(model).__name__} is '
            f'{type(backbone).__name__}'
        )
    if _tell_backbone not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_tell_backbone, with_kwargs=True)
        model.register_forward_hook(_let_backbone_forget, always_call=True)


def _tell_backbone(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
    given = dict(zip(('inputs', 'data_samples', 'mode'), args, strict=False)) | kwargs
    inputs, samples = given.get('inputs'), given.get('data_samples')
    test_cfg = getattr(model, 'test_cfg', None) or {}
    slides = given.get('mode') != 'loss' and test_cfg.get('mode') == 'slide'
    sizes = [] if slides or not samples else [tuple(s.img_shape[:2]) for s in samples]
    padded = any(size != tuple(inputs.shape[-2:]) for size in sizes)
    model.backbone.set_valid_sizes(sizes if padded else None)


def _let_backbone_forget(model: nn.Module, *_: Any) -> None:
    model.backbone.set_valid_sizes(None)


@HOOKS.register_module()
class ValidSizesHook(Hook):
    """``custom_hooks=[dict(type='mmrest.ValidSizesHook')]``: see :func:`use_valid_sizes`."""

    def before_run(self, runner: Runner) -> None:
        """Called by the runner before training, validation or testing."""
        use_valid_sizes(runner.model)

    def before_train(self, runner: Runner) -> None:
        """Called by the runner before the first epoch.

        Raises:
            InputError: Processes would wait for each other for ever.
        """
        if runner.world_size == 1:
            return
        backbone = unwrap_model(runner.model).backbone
        backbone.train()  # the runner does so later, and it may leave norms in eval mode
        for name, module in backbone.named_modules():
            if isinstance(module, nn.SyncBatchNorm) and module.training:
                raise InputError(
                    f'ValidSizesHook: {name} of the backbone is a SyncBN, which all processes must '
                    'call equally often, and the backbone is called once for each size in a batch; '
                    "give the backbone norm_cfg=dict(type='BN') or norm_eval=True"
                )
