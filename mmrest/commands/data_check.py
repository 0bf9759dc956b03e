"""Is the data there? Asked before anything is built, and answered with what to do."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from mmrest.commands.class_names import compare_with_annotations, string_for_classes
from mmrest.commands.coco_annotations import doubts_about_annotations, why_unreadable
from mmrest.commands.dataset_sample import (
    MOST_OBJECTS,
    DatasetSample,
    is_base_dataset,
    sample_dataset,
)
from mmrest.commands.evaluator_files import compare_with_evaluator
from mmrest.commands.json_parts import is_whole_json
from mmrest.commands.missing_files import suffix_of_images, where_else
from mmrest.commands.processes import is_first_process, warn
from mmrest.commands.sample_contents import doubts_about
from mmrest.config_nodes import datasets_of, iterate_dicts, scope_of, type_name
from mmrest.datasets import write_shapes
from mmrest.errors import InputError, did_you_mean

_SPLITS = 'train', 'val', 'test'
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
    """Make the built-in data set if the config uses it, then check that all files are there.

    What a data set's own class can read is never refused: see :mod:`.dataset_sample`.

    Args:
        cfg: Of mmdet or mmseg.
        splits: Some of ``'train'``, ``'val'``, ``'test'``.

    Raises:
        InputError: Files are missing; the message shows the expected layout, what was found, where
            to get the data, and the command that needs none.
    """
    splits = tuple(splits)
    if built_in := cfg.get('built_in_data'):
        spec = dict(built_in)
        if spec.pop('type') != 'shapes':
            raise InputError("built_in_data: the only built-in data set is type='shapes'")
        _require_one_source(cfg, spec['root'], splits)
        if _reads_from(cfg, spec['root']):
            if not Path(spec['root']).exists() and is_first_process():
                print(f'{spec["root"]} is not there: the built-in data set is made in it')
            write_shapes(**spec)
    init_default_scope(scope_of(cfg) or _scope_of_data(cfg))
    report = _Report()
    for split in splits:
        for node in datasets_of(cfg.get(f'{split}_dataloader')):
            report.add_dataset(node, split)
        for metric in iterate_dicts(cfg.get(f'{split}_evaluator')):
            report.add_evaluator(metric, split, datasets_of(cfg.get(f'{split}_dataloader')))
    if report.problems:
        text = report.explain()
        if built_in and Path(built_in['root']).resolve() in {r.resolve() for r in report.roots}:
            text += f'\nRemove {built_in["root"]} and it will be made again.'
        raise InputError(text)


def _require_one_source(cfg: Config, root: str, splits: Iterable[str]) -> None:
    """A config of other data, of which a part is forgotten, is not tested on the built-in ones."""
    if set(splits) != {'train', 'val'} or _reads_from(cfg, root, ['train']):
        return
    if not _reads_from(cfg, root, ['val']):
        return
    text = (
        'train_dataloader reads data of your own, and val_dataloader still the built-in data '
        f'set of the base ({root})'
    )
    classes = [
        [(node.get('metainfo') or {}).get('classes') for node in datasets_of(cfg.get(loader))]
        for loader in ('train_dataloader', 'val_dataloader')
    ]
    if classes[0] != classes[1]:
        raise InputError(
            f'{text}: write val_dataloader and val_evaluator, too (and test_dataloader = '
            'val_dataloader), or val_dataloader = val_evaluator = val_cfg = None'
        )
    warn(f'{text}. If that is not meant, write val_dataloader and val_evaluator, too')


def _reads_from(cfg: Config, root: str, splits: Iterable[str] = _SPLITS) -> bool:
    """Whether a data set of the config lies in a folder; one made of another has its own."""
    folder = Path(root).resolve()
    nodes = [n for split in splits for n in datasets_of(cfg.get(f'{split}_dataloader'))]
    roots = [Path(node.get('data_root') or '.') for node in nodes]
    files = [
        base / str(node.get('ann_file') or '') for base, node in zip(roots, nodes, strict=True)
    ]
    return any(path.resolve().is_relative_to(folder) for path in roots + files)


def require_usable_data(cfg: Config, splits: Iterable[str]) -> list[str]:
    """Check that a run can learn from, or be tested on, the data sets of a config.

    Args:
        cfg: Of mmdet or mmseg, whose files :func:`prepare_data` has found.
        splits: Some of ``'train'``, ``'val'``, ``'test'``.

    Returns:
        Warnings, which are printed.

    Raises:
        InputError: A data set is empty, its class names are not those of its annotations (the
            message shows both), or its data loader cannot work as it is set.
    """
    init_default_scope(scope_of(cfg) or _scope_of_data(cfg))
    errors, warnings = [], []
    for split in splits:
        require_workers(cfg.get(f'{split}_dataloader'), split)
        nodes = list(datasets_of(cfg.get(f'{split}_dataloader')))
        for node in nodes:
            place = f'{split}_dataloader: {type_name(node)}: '
            sample = sample_dataset(node)
            error, doubts = _judge(node, sample)
            errors += [place + error] if error else []
            warnings += [place + doubt for doubt in doubts]
            if sample is not None and len(nodes) == 1 and not error:
                for metric in iterate_dicts(cfg.get(f'{split}_evaluator')):
                    place = f'{split}_evaluator: {type_name(metric)}: '
                    error, doubt = compare_with_evaluator(metric, node, sample)
                    errors += [place + error] if error else []
                    warnings += [place + doubt] if doubt else []
    if errors:
        raise InputError('\n'.join(dict.fromkeys(errors)))
    warnings = list(dict.fromkeys(warnings))
    for warning in warnings:
        warn(warning)
    return warnings


def _judge(node: Mapping[str, Any], sample: DatasetSample | None) -> tuple[str | None, list[str]]:
    """An error if there is one, and warnings about a data set."""
    if (error := string_for_classes(node)) or sample is None:
        return error, []
    if error := why_unreadable(node, sample):
        return error, []
    if sample.infos == []:
        suffix = suffix_of_images(sample.dataset, _image_folder(sample))
        return f'it finds no image in {_image_folder(sample)}{suffix}', []
    if sample.images and sample.objects == [] and _drops_empty_images(node):
        return (
            f'{sample.dataset.ann_file} has no annotations, and images without any are left out '
            '(filter_cfg=dict(filter_empty_gt=True))'
        ), []
    if not sample.infos:
        return None, []
    place = f'{sample.dataset.ann_file}: ' if sample.dataset.ann_file else ''
    error, warning = compare_with_annotations(sample)
    doubts = [*doubts_about(node, sample), *doubts_about_annotations(sample)]
    doubts += [warning] if warning else []
    return error and place + error, [place + doubt for doubt in doubts]


def require_workers(loader: Mapping[str, Any] | None, split: str) -> None:
    """Check what torch's DataLoader refuses, which it does not say in a config's words.

    Raises:
        InputError: An option is unknown, is no number that it can be, or needs worker processes
            and there are none.
    """
    loader = loader or {}
    known = {*inspect.signature(DataLoader).parameters, 'num_batch_per_epoch'}
    for option in loader:
        if option not in known and not option.startswith('_'):
            hint = did_you_mean(option, known)
            raise InputError(f'{split}_dataloader has no option {option}{hint}')
    for option, least in (('batch_size', 1), ('num_workers', 0)):
        number = loader.get(option)
        if isinstance(number, str) or (isinstance(number, Real) and number < least):
            raise InputError(
                f'{split}_dataloader: {option}={number!r} must be a whole number of {least} or more'
            )
    if loader.get('num_workers'):
        return
    for option in ('persistent_workers', 'prefetch_factor', 'timeout'):
        if loader.get(option):
            raise InputError(
                f'{split}_dataloader: {option}={loader[option]} needs num_workers of 1 or more, '
                f'and it has {loader.get("num_workers", 0)}'
            )


def _scope_of_data(cfg: Config) -> str:
    """The library of the data sets, in a config that names none."""
    loaders = [cfg.get(f'{split}_dataloader') for split in _SPLITS]
    nodes = [node for loader in loaders for node in datasets_of(loader)]
    of_mmseg = any('img_path' in (node.get('data_prefix') or ()) for node in nodes)
    return 'mmseg' if of_mmseg else 'mmdet'


class _Report:
    """What data sets expect and what is there."""

    def __init__(self) -> None:
        self.expected: dict[Path, str] = {}
        self.problems: dict[Path, str] = {}
        self.explained: set[Path] = set()  # of the problems, those that say what to do
        self.roots: set[Path] = set()
        self.kinds: set[str] = set()

    def add_dataset(self, node: Mapping[str, Any], split: str) -> None:
        _require_kinds(node, split)
        sample = sample_dataset(node)
        if sample is None:
            return
        if not (node.get('metainfo') or {}).get('classes'):  # else it is the user's own
            self.kinds.add(type_name(node))
        self.roots.add(Path(node.get('data_root') or '.'))
        if sample.dataset is None:
            self._add_paths(node, split)
        else:
            self._add_files(sample, split, node)

    def _add_paths(self, node: Mapping[str, Any], split: str) -> None:
        """Of a class that could not be built, perhaps since one of its paths is missing."""
        root = node.get('data_root') or ''
        named = {'annotations': node.get('ann_file'), **(node.get('data_prefix') or {})}
        for role, path in named.items():
            if isinstance(path, str) and path:
                self._expect(Path(root, path), f'{split} {role.removesuffix("_path")}')

    def _add_files(self, sample: DatasetSample, split: str, node: Mapping[str, Any]) -> None:
        annotated, dataset = _loads_annotations(node), sample.dataset
        ann_file = dataset.ann_file
        if isinstance(ann_file, str) and ann_file:
            self._expect(Path(ann_file), f'{split} annotations')
        prefixes = {
            key: Path(prefix)
            for key, prefix in dataset.data_prefix.items()
            if prefix and (annotated or key.startswith(('img', 'sub_data_root')))
        }
        for key, folder in prefixes.items():
            self.expected.setdefault(folder, f'{split} {key.removesuffix("_path")}')
        if sample.missing is not None:
            self._miss(sample.missing, split)
        elif sample.infos is None:
            for key, folder in prefixes.items():
                if key.startswith('img') and not folder.is_dir():
                    self.problems[folder] = 'missing'
        elif not sample.infos and not _holds_files(images := _image_folder(sample)):
            self.problems[images] = 'holds no files' if images.is_dir() else 'missing'
        for info in sample.infos or []:
            gone = [
                (path, key.removesuffix('_path'))
                for key, path in info.items()
                if key.endswith('_path') and (annotated or key.startswith('img'))
                if isinstance(path, str) and not os.path.isfile(path)
            ]
            if gone and not _is_left_out(info, sample, node):
                file, role = gone[0]
                option = f'{role}_suffix'
                # (of NYU's it is depth_map_suffix, and kept as the other)
                suffix = getattr(dataset, 'img_suffix' if role == 'img' else 'seg_map_suffix', None)
                self._miss(file, split, where_else(file, option, suffix))
                return

    def _miss(self, file: str, split: str, hint: str = '') -> None:
        """Tell of a file at the expected folder that it should be in."""
        path = Path(os.path.normpath(file))
        for folder in self.expected:
            base = Path(os.path.normpath(folder))
            if folder.suffix not in ('.json', '.txt') and path.is_relative_to(base):
                inside = f'lacks {path.relative_to(base)}{hint}' if folder.is_dir() else 'missing'
                self.problems.setdefault(folder, inside)
                self.explained |= {folder} if hint else set()
                return
        self.expected.setdefault(path, f'{split} image')
        self.problems[path] = 'missing'

    def add_evaluator(self, metric: Mapping[str, Any], split: str, nodes: list) -> None:
        path = metric.get('ann_file')
        backend = (metric.get('backend_args') or {}).get('backend', 'local')
        if isinstance(path, str) and path and backend == 'local' and '://' not in path:
            self._expect(Path(path), f'{split} evaluator')
            files = [Path(n.get('data_root') or '', n.get('ann_file') or '') for n in nodes]
            if len(files) == 1 and files[0].is_file() and not Path(path).exists():
                self.problems[Path(path)] = (
                    f"missing; the data set's own is {files[0]}, which {split}_evaluator.ann_file "
                    'should name'
                )

    def _expect(self, path: Path, role: str) -> None:
        self.expected.setdefault(path, role)
        if not path.exists():
            self.problems[path] = 'missing'
        elif path.is_file() and not path.stat().st_size:
            self.problems[path] = 'empty'
        elif path.suffix == '.json' and not is_whole_json(path):
            self.problems[path] = 'cut short: its end is not that of JSON'

    def explain(self) -> str:
        lines = ['the data set is not complete. Expected:']
        width = max(len(str(path)) for path in self.expected | self.problems)
        for path, role in (dict.fromkeys(self.problems, '') | self.expected).items():
            problem = self.problems.get(path)
            state = (
                f'PROBLEM: {problem}' if problem else 'found' if path.exists() else 'missing, too'
            )
            lines.append(f'  {path!s:{width}}  {role:18}  {state}')
        for root in sorted(self.roots):
            place = root
            while not place.exists() and place != place.parent:
                place = place.parent
            names = sorted(entry.name + '/' * entry.is_dir() for entry in place.iterdir())
            shown = ', '.join(names[:10]) + (', ...' if len(names) > 10 else '') or 'nothing'
            away = f'{root} is not there; {place.resolve()} holds'
            lines.append(f'{f"{root} holds" if place == root else away}: {shown}')
        lines += [
            text
            for name, text in _SOURCES.items()
            if any(kind.startswith(name) for kind in self.kinds)
        ]
        if self.problems.keys() <= self.explained:
            return '\n'.join(lines)
        lines += [
            'If it lies elsewhere, add --data-root FOLDER.',
            'To try everything without any download: '
            'python -m mmrest train retinanet_rest_lite_shapes',
        ]
        return '\n'.join(lines)


def _require_kinds(node: Mapping[str, Any], split: str) -> None:
    """Check what mmengine's data sets fail on without naming it; other classes may take more."""
    if not is_base_dataset(node):
        return
    ann_file, prefix = node.get('ann_file'), node.get('data_prefix')
    place = f'{split}_dataloader: {type_name(node)}: '
    if isinstance(prefix, str):
        raise InputError(
            f'{place}data_prefix={prefix!r} must be a dict, for example dict(img={prefix!r}) for '
            f'mmdet or dict(img_path={prefix!r}) for mmseg'
        )
    if isinstance(ann_file, list | tuple):
        raise InputError(
            f'{place}ann_file={ann_file!r} must be one file; for several write a ConcatDataset, '
            "dict(type='ConcatDataset', datasets=[...]) with a data set for each"
        )


def _drops_empty_images(node: Mapping[str, Any]) -> bool:
    filters = node.get('filter_cfg') or {}
    return bool(filters.get('filter_empty_gt')) and not node.get('test_mode')


def _is_left_out(info: Mapping[str, Any], sample: DatasetSample, node: Mapping[str, Any]) -> bool:
    """Whether mmdet never reads an image, since it is too small or has no objects."""
    if node.get('test_mode') or 'img_id' not in info:
        return False
    least = (node.get('filter_cfg') or {}).get('min_size', 0)
    if min(info.get('width') or math.inf, info.get('height') or math.inf) < least:
        return True
    # of a large file the sample has not all objects
    known = sample.objects is not None and len(sample.objects) < MOST_OBJECTS
    annotated = {thing.get('image_id') for thing in sample.objects or ()}
    return known and _drops_empty_images(node) and info['img_id'] not in annotated


def _image_folder(sample: DatasetSample) -> Path:
    prefixes = sample.dataset.data_prefix
    images = next((prefixes[key] for key in ('img', 'img_path') if prefixes.get(key)), None)
    return Path(images or sample.dataset.data_root or '.')


def _holds_files(folder: Path) -> bool:
    return any(files for _, _, files in os.walk(folder))


def _loads_annotations(node: Mapping[str, Any]) -> bool:
    pipeline = node.get('pipeline') or ()
    return any('Annotation' in type_name(step) for step in iterate_dicts(pipeline))
