"""``--data-root``: reading a config's data from another folder."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmrest.errors import InputError

# What is not the data set's: weights, and where results go.
_NOT_DATA = (
    *('checkpoint', 'load_from', 'resume', 'work_dir', 'out_dir', 'output_dir', 'save_dir'),
    *('outfile_prefix', 'out_file_path', 'test_out_dir'),
)


def move_data_root(cfg: Config, data_root: str) -> None:
    """Make every data set and evaluator of a config read from another folder.

    Every string that lies under the old ``data_root``, however it is spelt (``./``, ``//``,
    backslashes, relative or absolute), is moved with it.

    Args:
        cfg: Changed in place.
        data_root: The new folder.

    Raises:
        InputError: ``data_root`` is no folder, the config has no root or several, or something of
            it would still be read from the old one.
    """
    new = Path(data_root).expanduser()
    if not new.is_dir() and 'built_in_data' not in cfg:
        raise InputError(f'--data-root {data_root} is no folder (looked in {new.resolve()})')
    roots = {_normalise(root): root for root in _roots(cfg)}
    if len(roots) != 1:
        raise InputError(
            f'--data-root moves the one data_root of a config, this one has {sorted(roots)}; '
            'use --cfg-options for each instead'
        )
    (old,) = roots
    for key in list(cfg):
        if key != 'model' and key not in _NOT_DATA:
            in_loader = key.endswith('_dataloader')
            cfg[key] = _moved(cfg[key], old, str(new), from_here=not in_loader)
    left = [
        f'{place} = {text!r}'
        for place, text, in_loader in _strings(cfg)
        if _still_under(text, old, str(new), from_here=not in_loader)
    ]
    if left:
        raise InputError(
            f'--data-root {data_root}: the config would still read from {roots[old]}:\n  '
            + '\n  '.join(left)
            + '\nmove it with --cfg-options KEY=VALUE'
        )


def _roots(cfg: Config) -> Iterator[str]:
    for split in ('train', 'val', 'test'):
        nodes = [cfg.get(f'{split}_dataloader')]
        while nodes:
            node = nodes.pop()
            if isinstance(node, Mapping):
                if isinstance(root := node.get('data_root'), str) and root:
                    yield root
                nodes += node.values()
            elif isinstance(node, list | tuple):
                nodes += node


def _normalise(path: str) -> str:
    scheme, separator, rest = path.rpartition('://')
    return scheme + separator + posixpath.normpath(rest.replace('\\', '/'))


def _rest_under(text: str, root: str, from_here: bool) -> str | None:
    """What follows the folder ``root`` (normalised) in ``text``; None if it is not under it.

    Args:
        text: Any string of a config.
        root: The folder.
        from_here: A relative path is one from the working directory. (Data sets join theirs with
            their ``data_root``.)
    """
    path = _normalise(text)
    if root == '.' and not posixpath.isabs(path):
        from_root = text.replace('\\', '/').startswith('./') or path == '.'
        under = from_root or (from_here and os.path.exists(path))
        return path.removeprefix('.') if under and not path.startswith('..') else None
    if posixpath.isabs(path) != posixpath.isabs(root) and '://' not in path + root:
        # a word like CocoMetric is no path, a file that is there is one
        if not posixpath.isabs(path) and not (from_here and '/' in path and os.path.exists(path)):
            return None
        path, root = os.path.abspath(path), os.path.abspath(root)
    if path == root:
        return ''
    start = root.rstrip('/') + '/'
    return path.removeprefix(start) if path.startswith(start) else None


def _moved(node: Any, old: str, new: str, from_here: bool) -> Any:
    """A copy of a nest of mappings and sequences with every path under ``old`` moved."""
    if isinstance(node, str):
        rest = _rest_under(node, old, from_here) if node else None
        return node if rest is None else f'{new}/{rest}'
    if isinstance(node, Mapping):
        moved = node.copy()
        # dict's own items: a pure Python config's would import what it names
        for key, value in dict.items(node):
            if key not in _NOT_DATA:
                moved[key] = _moved(value, old, new, from_here)
        return moved
    if isinstance(node, list | tuple):
        return type(node)(_moved(value, old, new, from_here) for value in node)
    return node


def _strings(cfg: Config) -> Iterator[tuple[str, str, bool]]:
    """Place, string, and whether it is a data loader's, of all that a run may read."""
    nodes = [(key, cfg[key], key.endswith('_dataloader')) for key in cfg if key not in _NOT_DATA]
    while nodes:
        place, node, in_loader = nodes.pop(0)
        if isinstance(node, str):
            yield place, node, in_loader
        elif isinstance(node, Mapping):
            nodes += [
                (f'{place}.{key}', value, in_loader)
                for key, value in node.items()
                if key not in _NOT_DATA
            ]
        elif isinstance(node, list | tuple):
            nodes += [(f'{place}.{i}', value, in_loader) for i, value in enumerate(node)]


def _still_under(text: str, old: str, new: str, from_here: bool) -> bool:
    if not text or _rest_under(text, _normalise(new), from_here=True) is not None:
        return False
    if _rest_under(text, old, from_here) is not None:
        return True
    # another name of the same folder
    is_path = '/' in text and '://' not in text and (from_here or posixpath.isabs(text))
    if not is_path or not os.path.exists(text):
        return False
    real = os.path.realpath(text)
    if _rest_under(real, os.path.realpath(new), from_here=True) is not None:
        return False
    return _rest_under(real, os.path.realpath(old), from_here=True) is not None
