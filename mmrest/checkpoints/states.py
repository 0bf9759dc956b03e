"""The model's tensors among all that a checkpoint may hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmrest.checkpoints.errors import CheckpointError
from mmrest.errors import list_some

# Where files keep a model's tensors, as the value of one of these keys, perhaps one in the other.
# Of timm's training files the averaged weights are taken, as timm does.
NESTING = ('state_dict_ema', 'state_dict', 'model', 'model_state')
# What wrappers put before every name: DistributedDataParallel and averaged models.
_MODULE = 'module.'
# What torch.compile, FSDP and activation checkpointing put before the names of what they wrap.
_INNER_WRAPPERS = ('_orig_mod.', '_fsdp_wrapped_module.', '_checkpoint_wrapped_module.')
# What averaged models count.
_COUNTERS = ('n_averaged', 'steps')


def model_state(checkpoint: Any, source: str) -> OrderedDict[str, Tensor]:
    """The model's tensors out of what a file holds, without the names of wrappers around it.

    The twins (``ema_...``) that mmdet 2's files hold beside averaged weights are left out, as mmdet
    does.

    Raises:
        CheckpointError: There are no tensors.
    """
    tables = _innermost(checkpoint)
    state = OrderedDict(
        (str(key), torch.as_tensor(value))
        for key, value in (tables.items() if isinstance(tables, Mapping) else ())
        if isinstance(value, Tensor) or (isinstance(value, np.ndarray) and _is_numeric(value))
    )
    if not state:
        inside = f'a {type(tables).__name__}'
        if isinstance(tables, Mapping):
            inside = f'the keys {list_some(tables)}'
        raise CheckpointError(f'{source} holds no tensors of a model, but {inside}')
    twins = {f'ema_{key.replace(".", "_")}' for key in state}
    state = OrderedDict((key, value) for key, value in state.items() if key not in twins)
    names = _unwrapped_names(state)
    unwrapped = OrderedDict((own, state[key]) for key, own in names.items())
    if hasattr(tables, '_metadata'):  # the versions of modules, by which torch reads older files
        unwrapped._metadata = _unwrap_metadata(tables._metadata, names)
    return unwrapped


def _innermost(checkpoint: Any) -> Any:
    while isinstance(checkpoint, Mapping):
        nested = next((k for k in NESTING if isinstance(checkpoint.get(k), Mapping)), None)
        if nested is None:
            break
        checkpoint = checkpoint[nested]
    return checkpoint


def _is_numeric(array: np.ndarray) -> bool:
    return array.dtype.kind in 'biufc'


def _unwrapped_names(keys: Iterable[str]) -> dict[str, str]:
    """Key of the file -> the model's own name; counters of averaged models are left out."""
    names = {key: _without_inner(key) for key in keys}
    while _are_wrapped(names.values()):
        names = {
            key: _without_inner(name.removeprefix(_MODULE))
            for key, name in names.items()
            if name not in _COUNTERS
        }
    return names


def _are_wrapped(names: Iterable[str]) -> bool:
    names = [name for name in names if name not in _COUNTERS]
    return bool(names) and all(name.startswith(_MODULE) for name in names)


def _without_inner(name: str) -> str:
    for wrapper in _INNER_WRAPPERS:
        name = name.replace(wrapper, '')
    return name


def _unwrap_metadata(metadata: Mapping[str, Any], names: Mapping[str, str]) -> OrderedDict:
    """Metadata is by module, whose names change as those of the tensors in them do."""
    depth = next(key.count(_MODULE) - own.count(_MODULE) for key, own in names.items())
    unwrapped = OrderedDict()
    for module, facts in metadata.items():
        own = _without_inner(f'{module}.')
        for _ in range(depth):
            own = own.removeprefix(_MODULE)
        unwrapped[own.removesuffix('.')] = facts
    return unwrapped
