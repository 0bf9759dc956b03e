"""Hooks with which the command lines watch a run: what it loads, learns and finds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner, find_latest_checkpoint
from torch import Tensor
from torch.optim import Optimizer

from mmrest.checkpoints import (
    CheckpointError,
    require_fit,
    require_optimizer_state,
    require_schedulers_state,
    require_training_state,
)
from mmrest.engine.anchor_strides import find_misplaced_anchors
from mmrest.engine.checkpointing import use_safe_checkpoints
from mmrest.engine.head_outputs import require_enough_outputs
from mmrest.engine.image_channels import require_image_channels
from mmrest.engine.interruption import StopHook, use_resumable_epochs
from mmrest.engine.metric_names import coco_metric_names, metric_names
from mmrest.engine.randomness import SeedIterationsHook
from mmrest.engine.run_record import RecordRunHook
from mmrest.errors import InputError, did_you_mean, list_some

# A scaler of mixed precision skips a step now and then whose loss or gradients overflow.
_MOST_SKIPPED = 20


class CheckpointFitHook(Hook):
    """Checks the very checkpoint that the runner is about to load.

    Args:
        purpose: ``'test'`` and ``'resume'`` take a checkpoint that fits entirely, ``'start'`` one
            that may have other heads, as in all of OpenMMLab, but not nothing in common.
    """

    priority = 'LOWEST'  # after those that change what is loaded, as averaged weights do

    def __init__(self, purpose: str) -> None:
        self.purpose = purpose

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Called by the runner between reading and loading.

        Raises:
            CheckpointError: It does not fit; the message names the keys.
        """
        source = runner._load_from or find_latest_checkpoint(runner.work_dir) or 'the checkpoint'
        if self.purpose == 'resume':
            require_training_state(checkpoint, source)
        require_fit(runner.model, checkpoint, source, partly=self.purpose == 'start')
        if self.purpose != 'resume':
            return
        for name, optimizer in _optimizers(runner).items():
            state = _state_of(name, checkpoint, source)
            require_optimizer_state(state, optimizer, source)
            _count_on_processor(state['optimizer'])
        if runner.param_schedulers is not None:
            require_schedulers_state(checkpoint, runner.param_schedulers, source)


def _count_on_processor(optimizer: Mapping) -> None:
    """Move an optimizer's counts of steps to where torch makes them.

    mmengine reads a checkpoint onto the GPU, and there each count would be waited for in every
    step. torch moves those of fused optimizers back.
    """
    for of_parameter in optimizer['state'].values():
        if isinstance(of_parameter, dict) and isinstance(of_parameter.get('step'), Tensor):
            of_parameter['step'] = of_parameter['step'].cpu()


class ResumedSettingsHook(Hook):
    """Says where a resumed training has its checkpoint's settings and not the config's."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._of_config: dict[str, list[Any]] = {}

    def before_run(self, runner: Runner) -> None:
        """Called by the runner before it loads the checkpoint."""
        self._of_config = _hyper_parameters(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Called by the runner between reading and loading."""
        expected = ['optimizer', *(['param_schedulers'] if runner.param_schedulers else [])]
        absent = [name for name in expected if name not in checkpoint]
        if runner._resume and absent:
            runner.logger.warning(
                f'the checkpoint holds no state of {" and ".join(absent)}, as best_*.pth and those '
                'of save_optimizer=False: they begin anew, so that losses will differ'
            )

    def before_train(self, runner: Runner) -> None:
        """Called by the runner when the checkpoint is loaded."""
        loaded = _hyper_parameters(runner)
        for name in sorted(self._of_config.keys() & loaded.keys() - _scheduled(runner)):
            values, of_config = loaded[name], self._of_config[name]
            if values != of_config:
                what = 'learning rates' if name == 'lr' else f'{name} of the optimizer'
                runner.logger.warning(
                    f"{what} are the checkpoint's ({list_some(values, most=3)}), not those of the "
                    f'config ({list_some(of_config, most=3)}): a resumed training goes on with its '
                    'optimizer; load_from=CHECKPOINT without --resume begins with another'
                )
        loop = runner.train_loop
        # another data set may make other numbers of iterations of the epochs
        unit = 'epoch' if isinstance(loop, EpochBasedTrainLoop) else 'iter'
        # a loop of somebody's own may count otherwise
        if getattr(loop, unit, 0) >= getattr(loop, f'max_{unit}s', math.inf):
            runner.logger.warning(
                f'nothing is left to train: the checkpoint has had {loop.iter} iterations '
                f'({runner.epoch} epochs), and train_cfg asks for {loop.max_iters}'
            )


def _optimizers(runner: Runner) -> dict[str, Optimizer]:
    """By their names where the training has several; of one the name is empty."""
    wrapper = runner.optim_wrapper
    wrappers = dict(wrapper.items()) if isinstance(wrapper, OptimWrapperDict) else {'': wrapper}
    optimizers = {name: getattr(one, 'optimizer', None) for name, one in wrappers.items()}
    return {name: one for name, one in optimizers.items() if isinstance(one, Optimizer)}


def _state_of(name: str, checkpoint: Mapping, source: str) -> Mapping:
    """A checkpoint as it would be if its training had had this optimizer alone."""
    saved = checkpoint.get('optimizer')
    if not name or not isinstance(saved, Mapping):
        return checkpoint
    if not isinstance(saved.get(name), Mapping):
        raise CheckpointError(
            f'{source} cannot be resumed: it has no state of the optimizer {name!r}; it has '
            f'{list_some(saved)}'
        )
    return {**checkpoint, 'optimizer': saved[name]}


def _scheduled(runner: Runner) -> set[str]:
    """What a schedule of momentum has changed, of which the first value is not kept."""
    schedules = runner.param_schedulers or []
    lists = schedules.values() if isinstance(schedules, dict) else [schedules]
    names = {getattr(schedule, 'param_name', '') for one in lists for schedule in one}
    return {'betas', 'momentum'} if 'momentum' in names else set()


def _hyper_parameters(runner: Runner) -> dict[str, list[Any]]:
    """Name -> the values in all groups of parameters, before any schedule."""
    found: dict[str, list[Any]] = {}
    for group in (group for one in _optimizers(runner).values() for group in one.param_groups):
        for name in group.keys() - {'params'}:
            if not name.startswith('initial_'):
                value = group.get(f'initial_{name}', group[name])
                value = tuple(value) if isinstance(value, list) else value
                values = found.setdefault(name, [])
                if value not in values:
                    values.append(value)
    return {name: sorted(values, key=repr) for name, values in found.items()}


class DataFitHook(Hook):
    """Checks what a model takes and gives against the data: channels, classes, strides.

    Args:
        split: ``'train'`` or ``'test'``.
    """

    def __init__(self, split: str) -> None:
        self.split = split

    def before_run(self, runner: Runner) -> None:
        """Called by the runner when the model and the data set are built.

        Raises:
            InputError: A head has fewer, or has more and the evaluator cannot take them; the
                preprocessor is for images of other channels than the backbone.
        """
        require_image_channels(runner.model)
        loop = runner.test_loop if self.split == 'test' else runner.val_loop
        metrics = loop.evaluator.metrics if loop is not None else ()
        exactly = any(coco_metric_names(metric) for metric in metrics)
        loaders = {self.split: getattr(runner, f'{self.split}_dataloader')}
        if self.split == 'train' and loop is not None:
            loaders['val'] = loop.dataloader
        infos = {
            split: getattr(loader.dataset, 'metainfo', {}) for split, loader in loaders.items()
        }
        warnings = [
            warning
            for split, metainfo in infos.items()
            for warning in require_enough_outputs(runner.model, metainfo, exactly, split)
        ]
        classes = [list(metainfo.get('classes') or ()) for metainfo in infos.values()]
        if all(classes) and classes[0] != classes[-1]:
            warnings.append(
                f'the training has the classes {list_some(classes[0])}, and the validation '
                f'{list_some(classes[-1])}'
            )
        for warning in dict.fromkeys(warnings):
            runner.logger.warning(warning)

    def before_train(self, runner: Runner) -> None:
        """Called by the runner when the weights are initialised, which mmengine logs at length."""
        if misplaced := find_misplaced_anchors(runner.model):
            runner.logger.warning(misplaced)


class BestMetricHook(Hook):
    """Checks that a metric of ``save_best`` will be there, which mmengine asks after an epoch."""

    def before_train(self, runner: Runner) -> None:
        """Called by the runner before the first epoch.

        Raises:
            InputError: The evaluator gives no metric of that name.
        """
        names = metric_names(runner.val_evaluator) if runner.val_loop is not None else None
        hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
        for wanted in (name for hook in hooks for name in hook.save_best or ()):
            if names and wanted not in (*names, 'auto'):
                raise InputError(
                    f'save_best={wanted!r} of the checkpoint hook is no metric of the evaluator, '
                    f'which gives {list_some(names)}{did_you_mean(wanted, names)}'
                )


class FiniteLossHook(Hook):
    """Ends a training whose loss is no number any more, before a checkpoint keeps that.

    Args:
        go_on: Leave such a step out instead, unless it is one of many in a row.
    """

    def __init__(self, go_on: bool = False) -> None:
        self.go_on = go_on
        self.left_out = 0
        self._in_a_row = 0

    def before_train(self, runner: Runner) -> None:
        """Called by the runner before the first epoch."""
        # (the scaler of mixed precision leaves such steps out itself)
        if self.go_on and not hasattr(runner.optim_wrapper, 'loss_scaler'):
            _StepsOfFiniteLosses(runner.optim_wrapper)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Called by the runner after each step.

        Raises:
            InputError: The loss is infinite or no number. With mixed precision, whose scaler skips
                such steps, many in a row.
        """
        loss = outputs.get('loss') if isinstance(outputs, Mapping) else None
        # mmengine's own log has waited for the number already
        if loss is None or math.isfinite(value := float(loss.detach())):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        skips = getattr(runner.optim_wrapper, 'loss_scaler', None) is not None
        files = files_of(data_batch)
        if self.go_on:
            self.left_out += 1
            runner.logger.warning(
                f'the loss is {value} in iteration {runner.iter + 1}: the step is left out '
                f'({self.left_out} so far); its images: {files}'
            )
        if (skips or self.go_on) and self._in_a_row <= _MOST_SKIPPED:
            return
        parts = ', '.join(f'{k} {float(v.detach()):.4g}' for k, v in outputs.items() if k != 'loss')
        raise InputError(
            f'the loss is {value} in iteration {runner.iter + 1} (epoch {runner.epoch + 1}'
            f'{"; " + parts if parts else ""}); {saved_last(runner.work_dir)}. A lower learning '
            'rate, a longer warm-up or optim_wrapper.clip_grad=dict(max_norm=1.0) may help; so may '
            "a look at the annotations (boxes without area, labels out of range) of the batch's "
            f'images: {files}. --skip-non-finite leaves such steps out'
        )


class EmptyResultsHook(Hook):
    """Says what an evaluation without predictions means, and makes its metrics 0.

    mmdet's COCO metrics are then missing, and with them the best checkpoint and the log's columns.
    """

    priority = 'HIGHEST'  # before what notes and logs metrics and keeps the best checkpoint

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Called by the runner after a validation."""
        self._complete(runner, runner.val_evaluator, metrics)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Called by the runner after a test."""
        self._complete(runner, runner.test_evaluator, metrics)

    def _complete(self, runner: Runner, evaluator: Any, metrics: dict[str, float] | None) -> None:
        if metrics is None:
            return
        expected = [name for metric in evaluator.metrics for name in coco_metric_names(metric)]
        missing = [name for name in expected if name not in metrics]
        if missing:
            metrics.update(dict.fromkeys(missing, 0.0))
            runner.logger.warning(
                'the model detects nothing above its score threshold in any image, so that every '
                'AP is 0: usual in the first epochs, later a sign that it does not learn'
            )


def files_of(data_batch: Any) -> str:
    """The names of a batch's images."""
    samples = data_batch.get('data_samples') if isinstance(data_batch, Mapping) else None
    if isinstance(samples, Mapping):  # several views of each image
        samples = next(iter(samples.values()), None)
    paths = [getattr(sample, 'img_path', None) for sample in samples or ()]
    return list_some(path for path in paths if path) or 'unknown'


class _StepsOfFiniteLosses:
    """Makes an optimizer wrapper leave out steps in which a loss of any process is no number.

    A step may have several backward passes, as of several resolutions in turn.
    """

    def __init__(self, wrapper: OptimWrapper) -> None:
        self._wrapper = wrapper
        self._update, self._backward = wrapper.update_params, wrapper.backward
        self._finite = True
        wrapper.update_params, wrapper.backward = self.update_params, self.backward

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        self._finite &= bool(torch.isfinite(loss.detach()).all())
        self._backward(loss, **kwargs)

    def update_params(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        finite = torch.isfinite(loss.detach()).all().long() * self._finite
        all_reduce(finite, op='min')
        if finite:
            self._update(loss, *args, **kwargs)
        else:
            # processes wait for each other's gradients
            self._wrapper.backward(self._wrapper.scale_loss(loss))
            self._wrapper.zero_grad()
        self._finite = True


def saved_last(work_dir: str) -> str:
    """Which checkpoint of a work directory is the last whole one."""
    last = find_latest_checkpoint(work_dir)
    return f'saved last: {last}' if last else f'no checkpoint has been saved in {work_dir}'


def watch_run(runner: Runner, purpose: str, skip_non_finite: bool = False) -> None:
    """Register the hooks of this module, and the one that records how the run began.

    Args:
        runner: Of mmengine, also a ``FlexibleRunner``.
        purpose: ``'test'``, ``'resume'`` or ``'start'``, as of :class:`CheckpointFitHook`.
        skip_non_finite: Leave out steps whose loss is no number.
    """
    split = 'test' if purpose == 'test' else 'train'
    hooks = [RecordRunHook(), CheckpointFitHook(purpose), DataFitHook(split), EmptyResultsHook()]
    if split == 'train':
        hooks += [BestMetricHook(), FiniteLossHook(skip_non_finite)]
        hooks += [SeedIterationsHook(), StopHook()]
        use_resumable_epochs(runner)
        use_safe_checkpoints(runner)
    if purpose == 'resume':
        hooks.append(ResumedSettingsHook())
    for hook in hooks:
        runner.register_hook(hook)
