"""Training a detector or segmentor at several resolutions in one step."""

from __future__ import annotations

import warnings
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
from mmrest.multires.resizing import resize_batch


@MODELS.register_module('MultiResolution')
def make_multi_resolution(
    model: dict | nn.Module,
    scales: Sequence[float] = (1.0, 0.75, 0.5),
    consistency: dict | None = None,
    accumulate: bool = False,
    data_preprocessor: dict | nn.Module | None = None,
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
        data_preprocessor: Of the model, if its own config names none.

    Raises:
        InputError: The scales do not fall, the model has no backbone, or no features of the kind
            that the consistency loss compares.
    """
    if (
        not scales
        or any(scale <= 0 for scale in scales)
        or list(scales) != sorted(set(scales))[::-1]
    ):
        raise InputError(f'MultiResolution: scales={scales!r} must fall from high to low, above 0')
    if not isinstance(model, nn.Module):
        if data_preprocessor is not None:
            model = {'data_preprocessor': data_preprocessor, **model}
        model = MODELS.build(model)
    name = type(model).__name__
    if not isinstance(model, BaseModel) or not isinstance(
        getattr(model, 'backbone', None), nn.Module
    ):
        raise InputError(f'MultiResolution: {name} is no detector or segmentor with a backbone')
    if isinstance(model, MultiResolutionTraining):
        raise InputError('MultiResolution: the model trains at several resolutions already')
    # as torch's fully_shard does; a module around the model would change every parameter's name
    model.__class__ = type(f'MultiResolution{name}', (MultiResolutionTraining, type(model)), {})
    model.scales = tuple(scales)
    model.accumulate = accumulate
    model.consistency = None
    if consistency is not None:
        model.consistency = MODELS.build({'type': 'ScaleConsistencyLoss', **consistency})
        find_feature_source(model, model.consistency)
    return model


class MultiResolutionTraining(BaseModel):
    """What :func:`make_multi_resolution` adds to a model; only ``mode='loss'`` differs.

    Attributes:
        scales: See :func:`make_multi_resolution`.
        consistency: The loss between resolutions, or None.
        accumulate: See :func:`make_multi_resolution`.
    """

    scales: tuple[float, ...]
    consistency: ScaleConsistencyLoss | None
    accumulate: bool
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
            warnings.warn(
                'MultiResolution: accumulate=True has no effect within this model wrapper; set '
                "model_wrapper_cfg=dict(type='MultiResolutionDDP')",
                stacklevel=2,
            )
        losses: dict[str, Any] = {}
        for i in range(len(self.scales)):
            losses.update(self._losses_at(i, inputs, data_samples))
        return losses

    def _losses_at(
        self, index: int, inputs: Tensor, samples: Sequence[BaseDataElement]
    ) -> dict[str, Any]:
        scale = self.scales[index]
        inputs, samples = resize_batch(inputs, samples, scale, *_padding_of(self.data_preprocessor))
        with _watch(self, self.consistency) as seen:
            losses = super().__call__(inputs, samples, 'loss')
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


def _padding_of(preprocessor: nn.Module) -> tuple[int, int]:
    """What a preprocessor makes sizes multiples of, and its label for padding."""
    divisor = getattr(preprocessor, 'pad_size_divisor', None)  # mmdet's name, then mmseg's
    divisor = divisor or getattr(preprocessor, 'size_divisor', None) or 1
    label = getattr(preprocessor, 'seg_pad_value', getattr(preprocessor, 'seg_pad_val', 255))
    return divisor, label
