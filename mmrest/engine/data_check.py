"""Is the data there? Asked before anything is built, and answered with what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmrest.datasets import write_shapes
from mmrest.engine.config import iterate_dicts
from mmrest.errors import InputError

_SOURCES = {
    'Coco': (
        'COCO 2017 (train2017.zip, val2017.zip, annotations_trainval2017.zip) is at '
        'https://cocodataset.org/#download'
    ),
    'ADE20K': (
        'ADE20K (ADEChallengeData2016.zip) is at '
        'http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip'
    ),
}


def prepare_data(cfg: Config, splits: Iterable[str]) -> None:
    """Make the built-in data set if the config uses it, then check every data set of the config.

    Args:
        cfg: Of mmdet or mmseg.
        splits: Some of ``'train'``, ``'val'``, ``'test'``.

    Raises:
        InputError: Files are missing; the message shows the expected layout, what was found, where
            to get the data, and the command that needs none.
    """
    splits = list(splits)
    if built_in := cfg.get('built_in_data'):
        spec = dict(built_in)
        if spec.pop('type') != 'shapes':
            raise InputError("built_in_data: the only built-in data set is type='shapes'")
        write_shapes(**spec)
    expected: dict[Path, str] = {}
    kinds: set[str] = set()
    roots: set[Path] = set()
    problems: dict[Path, str] = {}
    for split in splits:
        loader, evaluator = cfg.get(f'{split}_dataloader'), cfg.get(f'{split}_evaluator')
        for dataset in _leaf_datasets(loader):
            kinds.add(str(dataset.get('type')))
            roots.add(Path(dataset.get('data_root') or '.'))
            expected.update(_paths_of(dataset, split))
        for metric in iterate_dicts(evaluator):
            if isinstance(path := metric.get('ann_file'), str) and _is_local(metric, path):
                expected.setdefault(Path(path), f'{split} evaluator')
        for dataset in _leaf_datasets(loader):
            problems |= _misplaced_images(dataset)
    problems |= {path: problem for path in expected if (problem := _problem(path))}
    if problems:
        text = _explain(expected, problems, roots, kinds)
        if built_in:
            text += f'\nRemove {built_in["root"]} and it will be made again.'
        raise InputError(text)


def _leaf_datasets(loader: Any) -> Iterator[Mapping[str, Any]]:
    """The data sets that read files, inside whatever wraps them."""
    dataset = (loader or {}).get('dataset')
    for node in iterate_dicts(dataset):
        inner = node.get('dataset') or node.get('datasets')
        if not inner and ('ann_file' in node or 'data_prefix' in node):
            yield node


def _paths_of(dataset: Mapping[str, Any], split: str) -> dict[Path, str]:
    root = dataset.get('data_root') or ''
    parts = {f'{split} annotations': dataset.get('ann_file')}
    for kind, folder in (dataset.get('data_prefix') or {}).items():
        parts[f'{split} {kind.removesuffix("_path")}'] = folder
    return {
        Path(root, part): role
        for role, part in parts.items()
        if isinstance(part, str) and part and _is_local(dataset, os.path.join(root, part))
    }


def _misplaced_images(dataset: Mapping[str, Any]) -> dict[Path, str]:
    """The image folder, if it lacks the first images that COCO-like annotations name."""
    root, prefix = dataset.get('data_root') or '', dataset.get('data_prefix') or {}
    annotations = Path(root, dataset.get('ann_file') or '')
    images = Path(root, prefix.get('img') or prefix.get('img_path') or '')
    if annotations.suffix != '.json' or not annotations.is_file() or not images.is_dir():
        return {}
    # The whole file takes many seconds to read for COCO; images are listed near its beginning.
    with open(annotations, encoding='utf-8', errors='replace') as file:
        names = re.findall(r'"file_name":\s*"([^"]+)"', file.read(2**20))
    missing = [name for name in names[:20] if not (images / name).is_file()]
    return {images: f'lacks {missing[0]}'} if missing else {}


def _is_local(node: Mapping[str, Any], path: str) -> bool:
    backend = (node.get('backend_args') or {}).get('backend', 'local')
    return backend == 'local' and '://' not in path


def _problem(path: Path) -> str | None:
    if not path.exists():
        return 'missing'
    if path.is_dir():
        with os.scandir(path) as entries:
            if not any(entry.is_file() for entry in entries):
                return 'holds no files'
    elif not path.stat().st_size:
        return 'empty'
    return None


def _explain(
    expected: Mapping[Path, str],
    problems: Mapping[Path, str],
    roots: Iterable[Path],
    kinds: Iterable[str],
) -> str:
    lines = ['the data set is not complete. Expected:']
    width = max(len(str(path)) for path in expected)
    for path, role in expected.items():
        problem = problems.get(path)
        state = f'PROBLEM: {problem}' if problem else 'found'
        lines.append(f'  {path!s:{width}}  {role:18}  {state}')
    for root in sorted(roots):
        place = root
        while not place.exists() and place != place.parent:
            place = place.parent
        names = sorted(entry.name + '/' * entry.is_dir() for entry in place.iterdir())
        shown = ', '.join(names[:10]) + (', ...' if len(names) > 10 else '') or 'nothing'
        what = f'{root} holds' if place == root else f'{root} is not there; {place.resolve()} holds'
        lines.append(f'{what}: {shown}')
    lines += [
        text for name, text in _SOURCES.items() if any(kind.startswith(name) for kind in kinds)
    ]
    lines += [
        'If it lies elsewhere, add --data-root FOLDER.',
        'To try everything without any download, run `make demo`.',
    ]
    return '\n'.join(lines)
