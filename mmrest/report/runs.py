"""What a work directory of mmengine holds, read without running anything."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmrest.engine.run_record import FILE as RECORD
from mmrest.errors import InputError

_PICTURES = {'.jpg', '.jpeg', '.png'}
# Of a logged line: where it is, and what the machine did, as opposed to what the model learned.
_PLACE = {'epoch', 'iter', 'step'}
_ENVIRONMENT = re.compile(r'System environment:\n(.*?)\n-{20,}', re.S)

Series = list[tuple[float, float]]


@dataclass
class Table:
    """A table that a command wrote.

    Attributes:
        name: Its path in the work directory.
        rows: A dict for each line.
    """

    name: str
    rows: list[dict[str, str]]


@dataclass
class Run:
    """A work directory.

    Attributes:
        name: What the page calls it.
        folder: The work directory.
        training: Name of a number -> (iteration, value), as logged in training.
        evaluation: Name of a metric -> (epoch or iteration, value), by validation.
        tests: Metrics of tests, the latest of each folder last.
        epochs: True if evaluations are counted in epochs.
        config: As mmengine dumped it, or None.
        source: The text of the config's own file, which shows how it differs from its bases.
        command: That started the run.
        environment: Lines of the log about versions and the machine.
        sweeps: Over resolutions.
        benchmarks: Of time and memory.
        pictures: Files of predictions.
    """

    name: str
    folder: Path
    training: dict[str, Series] = field(default_factory=dict)
    evaluation: dict[str, Series] = field(default_factory=dict)
    tests: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    epochs: bool = True
    config: Config | None = None
    source: str = ''
    command: str = ''
    environment: str = ''
    sweeps: list[Table] = field(default_factory=list)
    benchmarks: list[Table] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)


def read_run(folder: str) -> Run:
    """Read a work directory.

    Args:
        folder: That of ``--work-dir``, of our commands or of mmdet's and mmseg's own.

    Raises:
        InputError: There is no such folder, or nothing in it that a run leaves.
    """
    path = Path(folder)
    if not path.is_dir():
        found = 'is a file' if path.exists() else 'does not exist'
        raise InputError(f'work directory {folder} {found}')
    run = Run(path.resolve().name, path)
    # folders are named by the time at which a run began; one that was resumed has several
    for log in sorted(path.glob('*/vis_data/scalars.json')):
        _add_log(run, list(_lines(log)))
    run.tests = list(_tests(path))
    run.config = _config(path)
    if run.config is not None:
        run.epochs = run.config.get('train_cfg', {}).get('by_epoch', True)
    for record in sorted(path.glob(f'*/{RECORD}')):
        known = json.loads(record.read_text())
        run.source, run.command = known['source'], known['command']
    for log in sorted(path.glob('*/*.log')):
        if found := _ENVIRONMENT.search(log.read_text(errors='replace')):
            run.environment = found[1]
    _add_tables(run)
    run.pictures = sorted(_pictures(path))
    if not (run.training or run.evaluation or run.tests or run.sweeps or run.benchmarks):
        raise InputError(
            f'{folder} holds nothing that a report could show: no TIMESTAMP/vis_data/scalars.json '
            'of a training, no result of a test, no table of a sweep or benchmark'
        )
    return run


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    """Logged lines; the last one of a run that was killed may be cut."""
    for line in log.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        yield entry


def _add_log(run: Run, entries: list[dict[str, Any]]) -> None:
    """A resumed run does some iterations again: what it says of them counts."""
    learned = [entry for entry in entries if 'lr' in entry or 'loss' in entry]
    judged = [entry for entry in entries if not ('lr' in entry or 'loss' in entry)]
    for series, new in ((run.training, learned), (run.evaluation, judged)):
        start = min((entry['step'] for entry in new if 'step' in entry), default=math.inf)
        for name, points in series.items():
            series[name] = [point for point in points if point[0] < start]
        for entry in new:
            for name, value in entry.items():
                if name not in _PLACE and _is_number(value) and 'step' in entry:
                    series.setdefault(name, []).append((entry['step'], value))
    for name in ('data_time', 'time'):  # of an evaluation: not a metric
        run.evaluation.pop(name, None)


def _is_number(value: Any) -> bool:
    """True for what can be drawn; -1 is pycocotools' word for "there are no such objects"."""
    return isinstance(value, int | float) and math.isfinite(value) and value != -1


def _tests(folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """What mmengine writes at the end of a test, here and in folders of tests inside."""
    for file in sorted(folder.rglob('*.json')):
        if file.stem != file.parent.name or not re.fullmatch(r'\d{8}_\d{6}', file.stem):
            continue
        entries = [entry for entry in _lines(file) if isinstance(entry, dict)]
        for entry in entries[-1:]:
            metrics = {
                name: value
                for name, value in entry.items()
                if name not in ('time', 'data_time', *_PLACE) and _is_number(value)
            }
            if metrics:
                yield str(file.parent.relative_to(folder)), metrics


def _config(folder: Path) -> Config | None:
    dumped = [*folder.glob('*/vis_data/config.py'), *folder.glob('*.py')]
    for file in sorted(dumped, key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            # the file is mmengine's own dump, and is read as every config is: by running it
            return Config.fromfile(file, import_custom_modules=False)
        except Exception:  # half a file, or one of another kind: the page does without
            continue
    return None


def _add_tables(run: Run) -> None:
    for file in sorted(run.folder.rglob('*.csv')):
        with open(file, newline='', errors='replace') as opened:
            rows = list(csv.DictReader(opened))
        columns = set(rows[0]) if rows else set()
        table = Table(str(file.relative_to(run.folder)), rows)
        if {'resolution', 'retention'} <= columns:
            run.sweeps.append(table)
        elif {'model', 'ms', 'peak MB'} <= columns:
            run.benchmarks.append(table)


def _pictures(folder: Path) -> Iterator[Path]:
    """Pictures beside which there is no table: those of predictions."""
    for file in folder.rglob('*'):
        if file.suffix.lower() in _PICTURES and not file.with_suffix('.csv').exists():
            yield file


def differing(configs: Iterable[Config]) -> dict[str, list[str]]:
    """Keys in which configs differ -> the value in each, or ``'-'``."""
    flat = [dict(_flatten(config.to_dict())) for config in configs]
    keys = sorted(set().union(*flat))
    rows = {key: [values.get(key, '-') for values in flat] for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}


def _flatten(node: Any, prefix: str = '') -> Iterator[tuple[str, str]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _flatten(value, f'{prefix}.{key}' if prefix else str(key))
    elif isinstance(node, list | tuple) and any(isinstance(value, dict) for value in node):
        for index, value in enumerate(node):
            yield from _flatten(value, f'{prefix}[{index}]')
    else:
        yield prefix, repr(node)
