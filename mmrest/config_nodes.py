"""What a config of mmdet or mmseg says, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from mmrest.errors import InputError


def type_name(node: Any) -> str:
    """Name of what a config's node builds, without its scope; empty if the node builds nothing.

    ``type`` is a string, perhaps with a scope or a module before the name, or in mmengine's pure
    Python configs the class or function itself.
    """
    kind = node.get('type') if isinstance(node, Mapping) else None
    if isinstance(kind, str):
        return kind.rpartition('.')[2]
    return getattr(kind, '__name__', '')


def is_multi_resolution(model: Mapping[str, Any]) -> bool:
    """True for the config of ``MultiResolution``, in which the task's model is another one."""
    return type_name(model) in ('MultiResolution', 'make_multi_resolution')


def is_pretrained(init_cfg: Any) -> bool:
    """True for an ``init_cfg`` that loads a checkpoint."""
    return type_name(init_cfg) in ('Pretrained', 'PretrainedInit')


def task_model(cfg: Config) -> Config:
    """The config's detector or segmentor, also where it is trained at several resolutions.

    Raises:
        InputError: There is no other model in ``MultiResolution``.
    """
    outer = cfg.model
    if not is_multi_resolution(outer):
        return outer
    if not isinstance(outer.get('model'), Mapping):
        raise InputError(
            f"model=dict(type='{type_name(outer)}', ...) has no model of its own: write "
            'model=_base_.model into it'
        )
    return outer.model


def scope_of(cfg: Config) -> str | None:
    """The library of a config, ``'mmdet'`` or ``'mmseg'``; None if it does not tell.

    Pure Python configs need no ``default_scope``: the model's class tells its library.
    """
    if scope := cfg.get('default_scope'):
        return scope
    kind = task_model(cfg).get('type') if isinstance(cfg.get('model'), Mapping) else None
    module = kind if isinstance(kind, str) else getattr(kind, '__module__', '')
    library, separator, _ = module.partition('.')
    return library if separator else None


def datasets_of(loader: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The data sets of a data loader that read files, inside whatever wraps them."""
    for node in iterate_dicts((loader or {}).get('dataset')):
        wraps = node.get('dataset') or node.get('datasets')
        if not wraps and ('ann_file' in node or 'data_prefix' in node or 'data_root' in node):
            yield node


def iterate_dicts(node: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping in a nest of mappings and sequences, outer ones first."""
    if isinstance(node, Mapping):
        yield node
        node = node.values()
    elif not isinstance(node, list | tuple):
        return
    for child in node:
        yield from iterate_dicts(child)
