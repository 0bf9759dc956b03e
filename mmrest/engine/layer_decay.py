"""Layer-wise learning-rate decay for every backbone that says how deep its parameters are."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.logging import MMLogger, print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmrest.errors import InputError
from mmrest.wrappers import unwrap_model


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Scales the learning rate of a backbone's layer ``i`` of ``n`` by ``rate ** (n - 1 - i)``.

    The layers are those of the backbone's ``get_layer_depth`` (mmpretrain's protocol): blocks
    for plain vision transformers (ResFormer, GPViT), stages for all others. What is not in the
    backbone is not decayed. ``paramwise_cfg`` takes all that mmengine's default constructor takes,
    and ``layer_decay_rate``. ELECTRA (arXiv 2003.10555), Section 3.1, "layerwise learning rate
    decay".

    Example:
        ``optim_wrapper = dict(constructor='mmrest.LayerDecayOptimWrapperConstructor',
        paramwise_cfg=dict(layer_decay_rate=0.9, norm_decay_mult=0.0), ...)``
    """

    def __call__(self, model: nn.Module) -> Any:
        """Build the optimizer wrapper of a model.

        Raises:
            InputError: The rate is missing or not in (0, 1], or the backbone does not say how deep
                its parameters are.
        """
        self._rate = self.paramwise_cfg.get('layer_decay_rate')
        if self._rate is None or not 0 < self._rate <= 1:
            raise InputError(
                'LayerDecayOptimWrapperConstructor needs paramwise_cfg=dict(layer_decay_rate=r) '
                f'with 0 < r <= 1, got {self._rate}'
            )
        return super().__call__(model)

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs: Any
    ) -> None:
        """Add the parameters of ``module``; at the top, decay and merge equal groups."""
        if prefix:
            super().add_params(params, module, prefix, **kwargs)
            return
        with _silent_info():  # it would tell the rates before the decay
            super().add_params(params, module, prefix, **kwargs)
        module = unwrap_model(module)
        backbone = getattr(module, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise InputError(
                f'layer decay asks the backbone of {type(module).__name__} for get_layer_depth, '
                f'which {type(backbone).__name__} does not have'
            )
        scales = {
            id(parameter): self._rate ** (count - 1 - layer)
            for name, parameter in backbone.named_parameters()
            for layer, count in [backbone.get_layer_depth(name)]
        }
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        merged: dict[tuple, list[nn.Parameter]] = defaultdict(list)
        for group in params:
            options = {'lr': self.base_lr, **group}
            for parameter in options.pop('params'):
                scaled = {**options, 'lr': options['lr'] * scales.get(id(parameter), 1.0)}
                for key, value in scaled.items():
                    text = f'paramwise_options -- {names[id(parameter)]}:{key}={value}'
                    print_log(text, logger='current')
                merged[tuple(sorted(scaled.items()))].append(parameter)
        params[:] = [dict(options, params=members) for options, members in merged.items()]


@contextmanager
def _silent_info() -> Iterator[None]:
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)
