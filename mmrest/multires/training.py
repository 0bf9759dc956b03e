"""Training a detector or segmentor at several resolutions in one step."""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from mmengine.model import BaseModel, MMDistributedDataParallel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS, MODELS
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmrest.errors import InputError
from mmrest.multires.consistency import ScaleConsistencyLoss, features_of_map
from mmrest.multires.resizing import padding_of, resize_batch


@MODELS.register_module('MultiResolution')
def make_multi_resolution(
    model: dict | nn.Module,
    scales: Sequence[float] = (1.0, 0.75, 0.5),
    consistency: dict | None = None,
    accumulate: bool = False,
    size_divisor: int | None = None,
    data_preprocessor: dict | nn.Module | None = None,
    **unknown: Any,
) -> MultiResolutionTraining:
    """``model=dict(type='MultiResolution', model=dict(type='MaskRCNN', ...))``.

    ResFormer's multi-resolution training (arXiv 2212.00776, Section 3.2) for any detector of mmdet
    or segmentor of mmseg. In a training step the model sees every batch at each resolution; the
    loss is the mean over the resolutions of the task's loss and, from the second on, the
    consistency loss towards the next higher resolution. (The paper augments each resolution on its
    own; here they show the same crop.)

    The model stays what it is in everything else: its class is derived from the model's own, and
    its parameters have the same names, so that checkpoints, evaluation, optimizer options and hooks
    do not notice.

    Args:
        model: The detector or segmentor, or its config.
        scales: Resolutions relative to what the training pipeline gives, from high to low.
        consistency: Config of a :class:`ScaleConsistencyLoss`; None trains without.
        accumulate: Take the backward pass of each resolution before the next one begins, so that
            the memory is that of the largest alone. In several processes this needs
            ``model_wrapper_cfg=dict(type='MultiResolutionDDP')``.
        size_divisor: Lower resolutions are padded to multiples of it; None takes the
            preprocessor's. It is for models that need multiples (UNet, RTMDet) and get them from
            their pipeline.
        data_preprocessor: Of the model, if its own config names none.
        unknown: Nothing is known by another name.

    Raises:
        InputError: An argument is wrong, the model has no backbone, or no features of the kind that
            the consistency loss compares.
    """
    _check_arguments(scales, consistency, unknown)
    if not isinstance(model, nn.Module):
        if data_preprocessor is not None:
            model = {'data_preprocessor': data_preprocessor, **model}
        model = MODELS.build(model)
    name = type(model).__name__
    backbone = getattr(model, 'backbone', None)
    if not isinstance(model, BaseModel) or not isinstance(backbone, nn.Module):
        raise InputError(f'MultiResolution: {name} is no detector or segmentor with a backbone')
    if isinstance(model, MultiResolutionTraining):
        raise InputError('MultiResolution: the model trains at several resolutions already')
    # as torch's fully_shard does; a module around the model would change every parameter's name
    model.__class__ = _derive(type(model))
    model.scales = tuple(scales)
    model.accumulate = accumulate
    model.size_divisor = size_divisor
    model.consistency = None
    if consistency is not None:
        model.consistency = _build_loss(consistency)
        find_feature_source(model, model.consistency)
    return model


def _check_arguments(scales: Any, consistency: Any, unknown: dict[str, Any]) -> None:
    if unknown:
        names = ', '.join(unknown)
        raise InputError(
            f'MultiResolution: there is no argument {names}; options of the detector or segmentor '
            f'are those of its model: model.model.{next(iter(unknown))}'
        )
    numbers = scales if isinstance(scales, list | tuple) else ()
    falls = all(high > low for high, low in itertools.pairwise((*numbers, 0)))
    if not numbers or not falls:
        raise InputError(f'MultiResolution: scales={scales!r} must fall from high to low, above 0')
    if not isinstance(consistency, dict | None):
        raise InputError(
            f"MultiResolution: consistency={consistency!r} must be None or like dict(target='gap')"
        )


def _build_loss(config: dict) -> ScaleConsistencyLoss:
    try:
        return MODELS.build({'type': 'ScaleConsistencyLoss', **config})
    except TypeError as error:
        raise InputError(f'MultiResolution: consistency={dict(config)}: {error}') from error


@functools.cache
def _derive(kind: type[BaseModel]) -> type:
    """The class of a model that trains at several resolutions."""
    return type(f'MultiResolution{kind.__name__}', (MultiResolutionTraining, kind), {})


def _make_empty(kind: type[BaseModel]) -> BaseModel:
    """For pickles, which find no derived class by its name."""
    return _derive(kind).__new__(_derive(kind))


class MultiResolutionTraining(BaseModel):
    """What :func:`make_multi_resolution` adds to a model; only ``mode='loss'`` differs.

    Attributes:
        scales: See :func:`make_multi_resolution`.
        consistency: The loss between resolutions, or None.
        accumulate: See :func:`make_multi_resolution`.
        size_divisor: See :func:`make_multi_resolution`.
    """

    scales: tuple[float, ...]
    consistency: ScaleConsistencyLoss | None
    accumulate: bool
    size_divisor: int | None
    _teacher: Tensor | list[Tensor] | None = None

    def __call__(
        self,
        inputs: Tensor,
        data_samples: Sequence[BaseDataElement] | None = None,
        mode: str = 'tensor',
        resolution: int | None = None,
    ) -> Any:
        """As the model's ``forward``.

        Args:
            inputs: (B, C, H, W).
            data_samples: Of the images.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'``.
            resolution: With ``'loss'`` the index of the scale to take; None is all of them. Taken
                one by one, they must be taken in order.

        Returns:
            With ``'loss'`` the losses of every resolution, named ``x<scale>.<loss>``, and their sum
            ``x<scale>.total``; else what the model returns.
        """
        if mode != 'loss':
            return super().__call__(inputs, data_samples, mode)
        if not isinstance(inputs, Tensor):
            raise InputError('MultiResolution: a batch must be one tensor of images')
        if resolution is not None:
            return self._losses_at(resolution, inputs, data_samples)
        if self.accumulate:
            raise InputError(
                'MultiResolution: accumulate=True takes the resolutions one by one in train_step; '
                "in several processes set model_wrapper_cfg=dict(type='MultiResolutionDDP')"
            )
        losses: dict[str, Any] = {}
        for i in range(len(self.scales)):
            losses.update(self._losses_at(i, inputs, data_samples))
        return losses

    def _losses_at(
        self, index: int, inputs: Tensor, samples: Sequence[BaseDataElement]
    ) -> dict[str, Any]:
        scale = self.scales[index]
        padding = padding_of(self.data_preprocessor, self.size_divisor)
        inputs, samples = resize_batch(inputs, samples, scale, padding)
        with _watch(self, self.consistency) as seen:
            try:
                losses = super().__call__(inputs, samples, 'loss')
            except (RuntimeError, AssertionError) as error:
                if scale == 1 or 'out of memory' in str(error):
                    raise
                # an assertion may say nothing
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                size = 'x'.join(map(str, inputs.shape[-2:]))
                raise InputError(
                    f'{reason}\n(MultiResolution: the model says so at scale {scale:g}, where the '
                    f'images are {size}; it may need a higher lowest scale or, if it needs sizes '
                    'in multiples, size_divisor=32)'
                ) from error
        if self.consistency is not None:
            features = _features(self.consistency, seen, inputs, samples)
            if index:
                losses['loss_consistency'] = self.consistency(features, self._teacher)
            last = index == len(self.scales) - 1
            self._teacher = None if last else _detach(features)
        total, _ = super().parse_losses(losses)
        return {f'x{scale:g}.{name}': value for name, value in losses.items()} | {
            f'x{scale:g}.total': total.detach()
        }

    def __reduce__(self) -> tuple:
        return _make_empty, (type(self).__bases__[1],), self.__dict__

    def parse_losses(self, losses: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """As mmengine's; the sum is divided by the number of resolutions, its parts are not."""
        loss, logged = super().parse_losses(losses)
        loss = loss / len(self.scales)
        logged['loss'] = loss
        return loss, logged

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """See mmengine's ``BaseModel``."""
        if self.accumulate:
            return _train_in_turn(self, data, optim_wrapper)
        return super().train_step(data, optim_wrapper)


@MODEL_WRAPPERS.register_module()
class MultiResolutionDDP(MMDistributedDataParallel):
    """mmengine's wrapper for several processes, with one resolution at a time in memory."""

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """See mmengine's ``MMDistributedDataParallel``.

        Raises:
            InputError: The model is none of :func:`make_multi_resolution`.
        """
        if not isinstance(self.module, MultiResolutionTraining):
            raise InputError("MultiResolutionDDP wraps a model of type='MultiResolution' alone")
        if not self.module.accumulate:
            return super().train_step(data, optim_wrapper)
        return _train_in_turn(self, data, optim_wrapper)


def _train_in_turn(wrapped: nn.Module, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
    """A training step with a backward pass at each resolution and one exchange of gradients."""
    model = wrapped.module if is_model_wrapper(wrapped) else wrapped
    with optim_wrapper.optim_context(wrapped):
        data = model.data_preprocessor(data, True)
    logged: dict[str, Tensor] = OrderedDict(loss=0)
    last = len(model.scales) - 1
    for i in range(last + 1):
        apart = i < last and hasattr(wrapped, 'no_sync')
        with wrapped.no_sync() if apart else nullcontext():
            with optim_wrapper.optim_context(wrapped):
                losses = wrapped(**data, mode='loss', resolution=i)
            loss, parts = model.parse_losses(losses)
            if i == last:
                optim_wrapper.update_params(loss)
            else:
                _backward_within_step(optim_wrapper, loss)
        parts['loss'] = logged['loss'] + parts['loss'].detach()
        logged.update(parts)
    return logged


def _backward_within_step(optim_wrapper: OptimWrapper, loss: Tensor) -> None:
    # every backward pass counts as an iteration otherwise
    count = optim_wrapper._inner_count
    optim_wrapper.backward(optim_wrapper.scale_loss(loss))
    optim_wrapper._inner_count = count


def find_feature_source(model: nn.Module, loss: ScaleConsistencyLoss) -> nn.Module:
    """The module whose output the features are taken from.

    Raises:
        InputError: The class token is asked of a backbone that has none.
    """
    if loss.target != 'cls':
        return model.backbone
    source = getattr(model.backbone, 'class_token_norm', None)
    if source is None:
        raise InputError(
            "ScaleConsistencyLoss: target='cls' needs a ResFormer with its last block and "
            f"out_norm='branch'; for {type(model.backbone).__name__} take target='gap'"
        )
    return source


@contextmanager
def _watch(model: nn.Module, loss: ScaleConsistencyLoss | None) -> Iterator[list[Any]]:
    """The outputs of the features' source while the model works."""
    seen: list[Any] = []
    if loss is None:
        yield seen
        return
    if loss.target == 'cls' and model.backbone._compiled_call_impl is not None:
        raise InputError(
            "ScaleConsistencyLoss: target='cls' and a compiled backbone exclude each other"
        )
    source = find_feature_source(model, loss)
    handle = source.register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()


def _features(
    loss: ScaleConsistencyLoss,
    seen: list[Any],
    inputs: Tensor,
    samples: Sequence[BaseDataElement],
) -> Tensor | list[Tensor]:
    if loss.target == 'cls':
        if len(seen) != 1:
            raise InputError(
                "ScaleConsistencyLoss: target='cls' and ValidSizesHook exclude each other; take "
                "target='gap'"
            )
        return seen[0][:, 0]
    output = seen[-1]
    last_map = output if isinstance(output, Tensor) else list(output)[-1]
    sizes = [tuple(sample.img_shape[:2]) for sample in samples]
    return features_of_map(last_map, sizes, tuple(inputs.shape[-2:]), pool=loss.target == 'gap')


def _detach(features: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    return features.detach() if isinstance(features, Tensor) else [t.detach() for t in features]
