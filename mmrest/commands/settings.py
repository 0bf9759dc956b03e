"""Settings that are read long after a run has begun, or by nothing: asked before anything is built.

mmengine takes them as they are. A misspelt optimizer and a learning rate in quotes end in its own
code, and milestones in quotes are never reached.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from numbers import Real
from typing import Any

from mmengine.config import Config
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import LOOPS, OPTIMIZERS

from mmrest.commands.processes import warn
from mmrest.config_nodes import iterate_dicts, scope_of, type_name
from mmrest.engine.config_errors import unknown_type
from mmrest.errors import InputError, did_you_mean

_LOG_LEVELS = 'DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL'
# in which val_interval divides the epochs or iterations
_LOOPS = 'EpochBasedTrainLoop', 'IterBasedTrainLoop', 'ResumableEpochLoop'
# which ask for a weight decay where it is multiplied
_CONSTRUCTORS = 'DefaultOptimWrapperConstructor', 'LayerDecayOptimWrapperConstructor'
# of optimizers and schedules
_NUMBERS = (
    *('lr', 'weight_decay', 'momentum', 'eps', 'lr_mult', 'decay_mult', 'accumulative_counts'),
    *('begin', 'end', 'milestones', 'gamma', 'power', 'start_factor', 'end_factor', 'T_max'),
    *('eta_min', 'step_size', 'total_steps'),
)
# what a config writes as dict(...)
_DICTS = (
    *('model', 'data_preprocessor', 'train_cfg', 'val_cfg', 'test_cfg', 'optim_wrapper'),
    *('train_dataloader', 'val_dataloader', 'test_dataloader', 'default_hooks', 'env_cfg'),
    *('auto_scale_lr', 'randomness', 'log_processor', 'visualizer', 'built_in_data'),
    *('model_wrapper_cfg', 'tta_model', 'optim_wrapper.optimizer'),
    *('env_cfg.dist_cfg', 'env_cfg.mp_cfg', 'model.backbone', 'model.data_preprocessor'),
    *('train_dataloader.dataset', 'val_dataloader.dataset', 'test_dataloader.dataset'),
)
_TEXTS = 'default_scope', 'load_from', 'work_dir', 'launcher', 'runner_type', 'experiment_name'
_LISTS_OF_DICTS = 'custom_hooks', 'param_scheduler', 'val_evaluator', 'test_evaluator'


def require_kinds(cfg: Config) -> None:
    """Check that the sections of a config are what everything that reads them takes them for.

    Raises:
        InputError: One is something else; the message names it.
    """
    named = {f'default_hooks.{name}': hook for name, hook in _hooks(cfg).items()}
    named.update({name: _setting(cfg, name) for name in _DICTS})
    for name in _LISTS_OF_DICTS:
        value = cfg.get(name)
        nodes = value if isinstance(value, list | tuple) else [value]
        named.update({f'{name}[{place}]': node for place, node in enumerate(nodes)})
    for name, value in named.items():
        # (nothing, as False, is left out, and what is built already is left alone)
        if value and isinstance(value, str | Real | list | tuple):
            of = name.removesuffix('[0]') if cfg.get(name.removesuffix('[0]')) is value else name
            raise InputError(f'{of}={value!r:.80} of the config must be dict(...)')
    for name in _TEXTS:
        if not isinstance(value := cfg.get(name), str | None):
            raise InputError(f'{name}={value!r:.80} of the config must be text')


def _hooks(cfg: Config) -> Mapping[str, Any]:
    hooks = cfg.get('default_hooks')
    return hooks if isinstance(hooks, Mapping) else {}


def _setting(cfg: Config, name: str) -> Any:
    """A setting by its dotted name; None where there is none."""
    node: Any = cfg
    for part in name.split('.'):
        node = node.get(part) if isinstance(node, Config | Mapping) else None
    return node


def require_sound_settings(cfg: Config, part: str) -> None:
    """Check what a training or a test would trip over later, or pass over.

    Args:
        cfg: Of mmdet or mmseg.
        part: ``'train'`` or ``'test'``.

    Raises:
        InputError: A setting cannot be meant so; the message names it.
    """
    hooks = _hooks(cfg)
    for name, hook in hooks.items():
        if isinstance(hook, Mapping) and 'type' not in hook:
            hint = did_you_mean(name, [other for other in hooks if other != name])
            raise InputError(f'default_hooks.{name} has no type{hint}')
    checkpoint = hooks.get('checkpoint') or {}
    for option in ('interval', 'max_keep_ckpts', 'save_begin'):
        if isinstance(checkpoint.get(option), str):
            raise InputError(
                f'default_hooks.checkpoint.{option}={checkpoint[option]!r} is text, not a number'
            )
    level = cfg.get('log_level', 'INFO')
    if isinstance(level, str) and not isinstance(logging.getLevelName(level), int):
        raise InputError(f'log_level={level!r} is none{did_you_mean(level, _LOG_LEVELS)}')
    for place in ('train_cfg', 'val_cfg') if part == 'train' else ('test_cfg',):
        _require_known_arguments(cfg.get(place), place)
    if part == 'train':
        _require_sound_length(cfg)
        _require_known_optimizers(cfg)
        for place in ('optim_wrapper', 'param_scheduler'):
            _require_numbers(cfg, place)


def _require_known_arguments(loop: Any, place: str) -> None:
    if not isinstance(loop, Mapping):
        return
    by_epoch = loop.get('by_epoch', True)
    usual = 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop'
    usual = dict(train_cfg=usual, val_cfg='ValLoop', test_cfg='TestLoop')[place]
    kind = loop.get('type', usual)
    kind = LOOPS.get(kind) if isinstance(kind, str) else kind
    if not isinstance(kind, type):
        return  # of another scope, or unknown: building it tells
    known = inspect.signature(kind).parameters
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for name in loop:
        if name not in (*known, 'type', 'by_epoch', '_scope_'):  # that of an mmdet:: base
            raise InputError(
                f'the config gives {kind.__name__} ({place}) an argument {name!r}, which it does '
                f'not have{did_you_mean(name, known)}'
            )


def _require_sound_length(cfg: Config) -> None:
    loop = cfg.train_cfg
    if 'type' in loop and type_name(loop) not in _LOOPS:
        return
    for length in ('max_epochs', 'max_iters'):
        if isinstance(loop.get(length), str):
            raise InputError(f'train_cfg.{length}={loop[length]!r} is text, not a number')
        if isinstance(loop.get(length), Real) and loop[length] <= 0:
            warn(f'train_cfg.{length}={loop[length]} trains nothing')
    interval = loop.get('val_interval', 1)
    if cfg.get('val_cfg') is not None and (not isinstance(interval, Real) or not interval):
        raise InputError(
            f'train_cfg.val_interval={interval!r} must be a whole number of 1 or more (of epochs '
            'or iterations); leave val_cfg, val_dataloader and val_evaluator None for no validation'
        )


def _require_known_optimizers(cfg: Config) -> None:
    for node in iterate_dicts(cfg.optim_wrapper):
        optimizer = node.get('optimizer')
        name = optimizer.get('type') if isinstance(optimizer, Mapping) else None
        if isinstance(name, str):
            with OPTIMIZERS.switch_scope_and_registry(scope_of(cfg)) as registry:
                if registry.get(name) is None:
                    raise InputError(unknown_type(name, registry))
        _require_weight_decay(node)


def _require_weight_decay(optim_wrapper: Mapping) -> None:
    paramwise = optim_wrapper.get('paramwise_cfg')
    constructor = str(optim_wrapper.get('constructor', _CONSTRUCTORS[0])).rpartition('.')[2]
    if not paramwise or 'optimizer' not in optim_wrapper or constructor not in _CONSTRUCTORS:
        return
    try:
        DefaultOptimWrapperConstructor(dict(optim_wrapper), paramwise)
    except TypeError:
        return  # what it is, is said where it is built
    except ValueError as error:
        if 'base_wd' in str(error):
            raise InputError(
                'optim_wrapper.paramwise_cfg multiplies the weight decay of some parameters, and '
                'optim_wrapper.optimizer has none: set its weight_decay (0 if there shall be none)'
            ) from error


def _require_numbers(cfg: Config, place: str) -> None:
    for node in iterate_dicts(cfg.get(place)):
        for key, value in node.items():
            values = value if isinstance(value, list | tuple) else [value]
            if key in _NUMBERS and any(isinstance(number, str) for number in values):
                raise InputError(
                    f'{place}: {key}={value!r} is text; write numbers without quotes (in YAML with '
                    'a point, 1.0e-3) and lists in brackets'
                )
        clip = node.get('clip_grad')
        for key, value in clip.items() if isinstance(clip, Mapping) else ():
            if isinstance(value, str) and not _is_read_as_number(value):
                raise InputError(f'{place}.clip_grad.{key}={value!r} is no number')


def _is_read_as_number(text: Any) -> bool:
    """Whether torch takes it for a number, such as ``'inf'``."""
    try:
        float(text)
    except ValueError:
        return False
    return True
