"""What a checkpoint says of its training, looked at before a training goes on from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from mmengine.optim import _ParamScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from mmrest.checkpoints.errors import CheckpointError
from mmrest.errors import list_some

# What torch's optimizers keep of each number of a parameter.
_OF_EACH_NUMBER = (
    *('exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'exp_inf', 'square_avg', 'grad_avg'),
    *('momentum_buffer', 'acc_delta', 'sum', 'ax', 'prev', 'step_size'),
)
# What mmengine's schedules keep of each group of parameters.
_OF_EACH_GROUP = ('base_values', '_last_value')


def require_training_state(checkpoint: Any, source: str) -> None:
    """Check that a checkpoint can be resumed from.

    Args:
        checkpoint: What :func:`.read_checkpoint` returns.
        source: Where it is from, for the message.

    Raises:
        CheckpointError: It holds a model without the state of its training.
    """
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    if not isinstance(meta, Mapping) or 'epoch' not in meta or 'message_hub' not in checkpoint:
        raise CheckpointError(
            f'{source} is not from a training that can be resumed; to start from its weights, '
            'use --cfg-options load_from=FILE instead of --resume'
        )
    hub = checkpoint['message_hub']
    parts = hub if isinstance(hub, Mapping) else {}
    sound = {
        'meta.epoch': _is_count(meta['epoch']),
        'meta.iter': _is_count(meta.get('iter')),
        'meta.seed': meta.get('seed') is None or _is_count(meta['seed'], 2**32),
        'message_hub': all(
            _is_table(parts.get(name)) for name in ('log_scalars', 'runtime_info', 'resumed_keys')
        )
        and all(isinstance(value, bool) for value in parts['resumed_keys'].values()),
        'optimizer': isinstance(checkpoint.get('optimizer', {}), Mapping),
        'param_schedulers': isinstance(checkpoint.get('param_schedulers', []), list | Mapping),
    }
    if wrong := [name for name, is_sound in sound.items() if not is_sound]:
        raise _not_a_trainings(source, list_some(wrong))


def _not_a_trainings(source: str, what: str) -> CheckpointError:
    return CheckpointError(f'{source} cannot be resumed: {what} in it is not what a training saves')


def _is_count(value: Any, below: int = 2**31) -> bool:
    return isinstance(value, int) and 0 <= value < below


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def require_optimizer_state(checkpoint: Any, optimizer: Optimizer, source: str) -> None:
    """Check that the state of an optimizer is that of the parameters that are trained now.

    Args:
        checkpoint: As for :func:`require_training_state`.
        optimizer: Of the training that is to go on.
        source: Where the checkpoint is from, for the message.

    Raises:
        CheckpointError: It is of others, as when parts are frozen that were not; or its contents
            are none with which the optimizer can make a step.
    """
    saved = checkpoint.get('optimizer') if isinstance(checkpoint, Mapping) else None
    if not isinstance(saved, Mapping) or 'param_groups' not in saved:
        return  # several optimizers, or none
    groups, states = saved['param_groups'], saved.get('state') or {}
    if not isinstance(groups, list) or not all(map(_is_group, groups)):
        raise _not_a_trainings(source, 'optimizer.param_groups')
    if not isinstance(states, Mapping) or not all(_is_table(one or {}) for one in states.values()):
        raise _not_a_trainings(source, 'optimizer.state')
    sizes = [[len(group['params']) for group in each] for each in (groups, optimizer.param_groups)]
    if sizes[0] != sizes[1]:
        what = [f'{sum(each)} parameters in {len(each)} groups' for each in sizes]
        raise CheckpointError(
            f'{source} cannot be resumed: it trained {what[0]}, and this config trains {what[1]}. '
            'Parts are frozen that were not, or have other options of the optimizer, or the other '
            'way round: go on with the options that it began with (--from-scratch freezes nothing)'
        )
    if type(optimizer).__module__.startswith('torch.optim'):  # others keep what they like
        _require_usable_states(groups, states, optimizer, source)


def _is_group(group: Any) -> bool:
    return _is_table(group) and (
        isinstance(group.get('params'), list)
        and all(isinstance(number, int) for number in group['params'])
    )


def _require_usable_states(
    groups: list[Mapping], states: Mapping, optimizer: Optimizer, source: str
) -> None:
    kind = type(optimizer)
    if _failure_of_step(kind, nn.Parameter(torch.zeros(1)), {}, None):
        return  # of a kind that is used otherwise: by a closure, or with sparse gradients
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        for name, value in own.items():
            if isinstance(value, bool):  # or None, as fused: either way a step can be computed
                continue
            if _is_number(value) and name in group and not _is_number(group[name]):
                raise _not_a_trainings(source, f"the optimizer's {name}")
        for number, parameter in zip(group['params'], own['params'], strict=True):
            state = states.get(number) or {}
            _require_shapes(state, number, parameter, source)
            if failure := _failure_of_step(kind, parameter, group, state):
                raise CheckpointError(
                    f'{source} cannot be resumed: with what it holds of parameter {number} the '
                    f'optimizer can make no step ({failure})'
                )


def _require_shapes(state: Mapping, number: int, parameter: Tensor, source: str) -> None:
    """Check what torch's fused steps take as it is, and read beyond where it is too small."""
    for name, value in state.items():
        if isinstance(value, Tensor) and (value.layout != torch.strided or value.is_meta):
            raise _not_a_trainings(source, f"the optimizer's {name} of parameter {number}")
        if name not in _OF_EACH_NUMBER or value is None:
            continue
        if (shape := getattr(value, 'shape', None)) != parameter.shape:
            raise CheckpointError(
                f"{source} cannot be resumed: the optimizer's {name} of parameter {number} has "
                f'the shape {shape and tuple(shape)}, and the parameter {tuple(parameter.shape)}'
            )


def _failure_of_step(
    kind: type[Optimizer], parameter: Tensor, group: Mapping, state: Mapping | None
) -> str:
    """What goes wrong where one parameter of its own makes a step with this state, if anything."""
    own = nn.Parameter(torch.zeros_like(parameter))
    own.grad = torch.zeros_like(own)
    try:
        trial = kind([own])
        if state is not None:
            options = {name: value for name, value in group.items() if name != 'param_names'}
            held = {0: copy.deepcopy(state)} if state else {}
            trial.load_state_dict({'state': held, 'param_groups': [{**options, 'params': [0]}]})
        trial.step()
    except Exception as error:  # torch checks little, and raises what happens
        return f'{type(error).__name__}: {error}'
    return ''


def require_schedulers_state(
    checkpoint: Any, schedulers: list | dict[str, list], source: str
) -> None:
    """Check that the state of schedules is such as mmengine's take over.

    Args:
        checkpoint: As for :func:`require_training_state`.
        schedulers: Of the training that is to go on, built; of several optimizers by their names.
        source: Where the checkpoint is from, for the message.

    Raises:
        CheckpointError: An entry is of another kind than the schedule's own.
    """
    if 'param_schedulers' not in checkpoint:
        return
    saved, where = checkpoint['param_schedulers'], 'param_schedulers'
    if not isinstance(schedulers, dict):
        saved, schedulers = {'': saved}, {'': schedulers}
    for name, own in schedulers.items():
        states = saved.get(name) if isinstance(saved, Mapping) else None
        if not isinstance(states, list):
            raise _not_a_trainings(source, f'{where} {name}'.strip())
        for scheduler, state in zip(own, states, strict=False):  # as mmengine
            wrong = _wrong_entries(scheduler, state)
            if wrong is None:
                raise _not_a_trainings(source, where)
            if wrong:
                kind = type(scheduler).__name__
                raise _not_a_trainings(source, f'{list_some(wrong)} of the schedule {kind}')


def _wrong_entries(scheduler: _ParamScheduler, state: Any) -> list[str] | None:
    """Names of what a schedule cannot take over; None if it is no state at all."""
    if not _is_table(state):
        return None
    own = vars(scheduler)
    wrong = [name for name in state if name not in own and hasattr(type(scheduler), name)]
    both = own.keys() & state.keys()
    return sorted([*wrong, *(name for name in both if not _fits(name, own[name], state[name]))])


def _fits(name: str, own: Any, saved: Any) -> bool:
    kind = _kind(own)
    if kind and kind != _kind(saved):
        return False
    return kind != 'numbers' or name not in _OF_EACH_GROUP or len(own) == len(saved)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)


def _kind(value: Any) -> str:
    """What a schedule computes with; empty for what it may also leave out."""
    if _is_number(value):
        return 'number'
    if isinstance(value, list | tuple):
        return 'numbers' if all(map(_is_number, value)) else 'list'
    return '' if value is None else type(value).__name__
