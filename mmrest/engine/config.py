"""Reading a config and changing it as the command line asks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmrest.errors import InputError

# What a config's data sets and evaluators are made of, beside train_dataloader and its like.
_DATA_KEYS = ('data_root', 'built_in_data')


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
    except (OSError, SyntaxError, KeyError) as error:
        raise InputError(f'{path} is no config that can be read: {error}') from error
    cfg.launcher = launcher
    if options:
        cfg.merge_from_dict(dict(options))
    if data_root is not None:
        move_data_root(cfg, data_root)
    cfg.work_dir = work_dir or cfg.get('work_dir') or str(Path('work_dirs', file.stem))
    return cfg


def move_data_root(cfg: Config, data_root: str) -> None:
    """Make every data set and evaluator of a config read from another folder.

    Every string of their entries that lies under the old ``data_root`` is moved with it.

    Raises:
        InputError: ``data_root`` is no folder, or the config has no root or several.
    """
    new = Path(data_root).expanduser()
    if not new.is_dir() and 'built_in_data' not in cfg:
        raise InputError(f'--data-root {data_root} is no folder (looked in {new.resolve()})')
    loaders = [cfg.get(f'{split}_dataloader') for split in ('train', 'val', 'test')]
    roots = {
        node['data_root'].rstrip('/')
        for loader in loaders
        for node in iterate_dicts(loader)
        if node.get('data_root')
    }
    if len(roots) != 1:
        raise InputError(
            f'--data-root moves the one data_root of a config, this one has {sorted(roots)}; '
            'use --cfg-options for each instead'
        )
    old = roots.pop()

    def move(text: str) -> str:
        inside = text.rstrip('/') == old or text.startswith(f'{old}/')
        return f'{new}/{text[len(old) :].lstrip("/")}' if inside else text

    for key in list(cfg):
        if key.endswith(('_dataloader', '_evaluator', '_pipeline')) or key in _DATA_KEYS:
            cfg[key] = map_strings(cfg[key], move)


def task_model(cfg: Config) -> Config:
    """The config's detector or segmentor, also where it is trained at several resolutions."""
    wrapped = str(cfg.model.get('type')).split('.')[-1] == 'MultiResolution'
    return cfg.model.model if wrapped else cfg.model


def iterate_dicts(node: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping in a nest of mappings and sequences, outer ones first."""
    if isinstance(node, Mapping):
        yield node
        node = node.values()
    elif not isinstance(node, list | tuple):
        return
    for child in node:
        yield from iterate_dicts(child)


def map_strings(node: Any, change: Callable[[str], str]) -> Any:
    """A copy of a nest of mappings and sequences with every string value changed."""
    if isinstance(node, str):
        return change(node)
    if isinstance(node, Mapping):
        return type(node)({key: map_strings(value, change) for key, value in node.items()})
    if isinstance(node, list | tuple):
        return type(node)(map_strings(value, change) for value in node)
    return node
