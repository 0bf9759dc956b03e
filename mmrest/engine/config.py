"""Reading a config and changing it as the command line asks."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import TRANSFORMS

from mmrest.engine.data_root import move_data_root
from mmrest.errors import InputError


def load_config(
    path: str,
    options: Mapping[str, Any] | None = None,
    data_root: str | None = None,
    work_dir: str | None = None,
    launcher: str = 'none',
) -> Config:
    """Read a config of mmdet or mmseg as their command lines do.

    Args:
        path: The config's file.
        options: ``--cfg-options``: dotted key -> value, merged first.
        data_root: Folder that every data set and evaluator of the config is moved to.
        work_dir: Where logs and checkpoints go; by default ``work_dirs/`` + the config's name.
        launcher: As mmengine's ``Runner``.

    Raises:
        InputError: There is no such config, or it cannot be changed as asked.
    """
    file = Path(path)
    if not file.is_file():
        names = [str(f) for f in file.parent.glob('*.py')] if file.parent.is_dir() else []
        close = difflib.get_close_matches(str(file), names)
        hint = f'; did you mean {" or ".join(close)}?' if close else ''
        found = 'is a folder, not a config' if file.is_dir() else 'is not there'
        raise InputError(f'config {path} {found}{hint}')
    try:
        cfg = Config.fromfile(path)
    except UnicodeDecodeError as error:
        raise InputError(
            f'{path} or a base of it is not written in UTF-8 ({error}); save it as UTF-8'
        ) from error
    except (OSError, SyntaxError, KeyError, ImportError, AttributeError, TypeError) as error:
        raise InputError(
            f'{path} is no config that can be read: {type(error).__name__}: {error}'
        ) from error
    cfg.launcher = launcher
    if options:
        cfg.merge_from_dict(dict(options))
    if data_root is not None:
        move_data_root(cfg, data_root)
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs', file.stem))
    return cfg


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
    """The config's detector or segmentor, also where it is trained at several resolutions."""
    return cfg.model.model if is_multi_resolution(cfg.model) else cfg.model


def require_model(cfg: Config, option: str | None = None) -> None:
    """Check that a config describes a model.

    Args:
        cfg: Of mmdet or mmseg.
        option: What it is needed for, for the message.

    Raises:
        InputError: It does not.
    """
    if not isinstance(cfg.get('model'), Mapping):
        raise InputError((f'{option}: ' if option else '') + f'{cfg.filename} describes no model')


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


def name_transforms(cfg: Config) -> None:
    """Write the test pipeline's classes as their names, changed in place.

    mmdet's and mmseg's inferencers look for transforms by name; registries understand both.
    """
    with TRANSFORMS.switch_scope_and_registry(scope_of(cfg)) as registry:
        for node in iterate_dicts(cfg.test_dataloader.dataset.get('pipeline')):
            if isinstance(kind := node.get('type'), type):
                registered = registry.get(kind.__name__) is kind
                full = f'{kind.__module__}.{kind.__qualname__}'
                node['type'] = kind.__name__ if registered else full


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
