"""What a work directory of mmengine holds, read without running anything."""

from __future__ import annotations

import ast
import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmrest.engine.run_record import FILE as RECORD
from mmrest.errors import InputError

_PICTURES = {'.jpg', '.jpeg', '.png'}
# Of a logged line: where it is.
_PLACE = {'epoch', 'iter', 'step'}
_TIMES = {'time', 'data_time'}
_ENVIRONMENT = re.compile(r'System environment:\n(.*?)\n-{20,}', re.S)
_NO_OBJECTS = -1  # pycocotools' word where there are none of a size
_TIMESTAMP = re.compile(r'\d{8}_\d{6}')

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
        training: Name of a number -> (iteration, value), as logged in training; infinite or no
            numbers are there, too.
        evaluation: Name of a metric -> (epoch or iteration, value), by validation.
        tests: Folder and metrics of each test.
        epochs: True if evaluations are counted in epochs.
        config: As mmengine dumped it: key -> value; None if there is none.
        config_text: The same as text.
        source: The text of the config's own file, which shows what it changes of its bases.
        command: That started the training.
        environment: Lines of the log about versions and the machine.
        sweeps: Over resolutions.
        benchmarks: Of time and memory.
        pictures: Files of predictions.
        notes: What a reader of the page should know.
    """

    name: str
    folder: Path
    training: dict[str, Series] = field(default_factory=dict)
    evaluation: dict[str, Series] = field(default_factory=dict)
    tests: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    epochs: bool = True
    config: dict[str, Any] | None = None
    config_text: str = ''
    source: str = ''
    command: str = ''
    environment: str = ''
    sweeps: list[Table] = field(default_factory=list)
    benchmarks: list[Table] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_run(folder: str) -> Run:
    """Read a work directory. What is damaged is left out, and said.

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
    # folders are named by the time at which a run began; a training that was resumed has several
    began = sorted(each for each in path.iterdir() if _TIMESTAMP.fullmatch(each.name))
    trained = [each for each in began if _add_log(run, each / 'vis_data/scalars.json')]
    for each in trained or began[-1:]:
        _add_description(run, each)
    run.tests = list(_tests(path))
    _add_tables(run)
    run.pictures = sorted(_pictures(path))
    _add_notes(run)
    if not (run.training or run.evaluation or run.tests or run.sweeps or run.benchmarks):
        raise InputError(
            f'{folder} holds nothing that a report could show: no TIMESTAMP/vis_data/scalars.json '
            'of a training, no result of a test, no table of a sweep or benchmark'
            f'{_nested(path)}'
        )
    return run


def _read(file: Path) -> str:
    return file.read_text(encoding='utf-8', errors='replace')


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    """Logged lines; the last one of a run that was killed may be cut."""
    for line in _read(log).splitlines() if log.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def _add_log(run: Run, log: Path) -> bool:
    """Add what a session logged; a resumed one does some iterations again, which then count.

    Returns:
        True if it trained.
    """
    entries = [entry for entry in _lines(log) if _is_number(entry.get('step'))]
    learned = [entry for entry in entries if 'lr' in entry or 'loss' in entry]
    judged = [entry for entry in entries if not ('lr' in entry or 'loss' in entry)]
    if learned:
        first = min(learned, key=lambda entry: entry['step'])
        _forget(run.training, first['step'])
        epoch = first.get('epoch')
        _forget(run.evaluation, epoch if _is_number(epoch) else first['step'])
    for series, new in ((run.training, learned), (run.evaluation, judged)):
        for entry in new:
            for name, value in entry.items():
                if name in _PLACE or (series is run.evaluation and name in _TIMES):
                    continue
                if isinstance(value, int | float) and value != _NO_OBJECTS:
                    series.setdefault(name, []).append((entry['step'], value))
    return bool(learned)


def _forget(series: dict[str, Series], start: float) -> None:
    for name in list(series):
        series[name] = [point for point in series[name] if point[0] < start]
        if not series[name]:
            del series[name]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _add_description(run: Run, session: Path) -> None:
    """The command, config and environment of a session; those of the last one stay."""
    for record in session.glob(RECORD):
        try:
            known = json.loads(_read(record))
            run.source, run.command = str(known['source']), str(known['command'])
        except (ValueError, KeyError, TypeError):
            run.notes.append(f'{record.relative_to(run.folder)} is damaged')
    for file in session.glob('vis_data/config.py'):
        run.config_text = _read(file)
        run.config = read_config(run.config_text)
        if run.config is None:
            run.notes.append(f'{file.relative_to(run.folder)} is no config as mmengine writes it')
        else:
            run.epochs = (run.config.get('train_cfg') or {}).get('by_epoch', True)
    for file in session.glob('*.log'):
        if found := _ENVIRONMENT.search(_read(file)):
            run.environment = found[1]


def read_config(text: str) -> dict[str, Any] | None:
    """A config as mmengine dumps it, read as data: nothing is run.

    Args:
        text: Assignments of literals and calls of ``dict``.

    Returns:
        Key -> value, or None if it is something else.
    """
    try:
        return {
            statement.targets[0].id: _value(statement.value) for statement in ast.parse(text).body
        }
    except (SyntaxError, ValueError, AttributeError, RecursionError):
        return None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict' or len(node.args) > 1:
            raise ValueError('not a literal')
        # mmengine writes keys that are no names as dict({'.pos.': ...})
        pairs = dict(_value(node.args[0])) if node.args else {}
        return pairs | {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.List):
        return [_value(element) for element in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(element) for element in node.elts)
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key): _value(value) for key, value in pairs}
    return ast.literal_eval(node)


def _tests(folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """What mmengine writes at the end of a test, here and in folders of tests inside."""
    for file in sorted(folder.rglob('*.json')):
        if file.stem != file.parent.name or not _TIMESTAMP.fullmatch(file.stem):
            continue
        for entry in list(_lines(file))[-1:]:
            metrics = {
                name: value
                for name, value in entry.items()
                if name not in _PLACE | _TIMES and _is_number(value) and value != _NO_OBJECTS
            }
            if metrics:
                yield str(file.parent.relative_to(folder)), metrics


def _add_tables(run: Run) -> None:
    for file in sorted(run.folder.rglob('*.csv')):
        name = str(file.relative_to(run.folder))
        try:
            rows = list(csv.DictReader(_read(file).splitlines()))
        except csv.Error as error:
            run.notes.append(f'{name} is no table: {error}')
            continue
        columns = set(rows[0]) if rows else set()
        if {'resolution', 'retention'} <= columns:
            run.sweeps.append(Table(name, rows))
        elif {'model', 'ms', 'peak MB'} <= columns:
            run.benchmarks.append(Table(name, rows))


def _pictures(folder: Path) -> Iterator[Path]:
    """Pictures beside which there is no table: those of predictions."""
    for file in folder.rglob('*'):
        if file.suffix.lower() in _PICTURES and not file.with_suffix('.csv').exists():
            yield file


def _add_notes(run: Run) -> None:
    for name, points in run.training.items():
        bad = [step for step, value in points if not math.isfinite(value)]
        if bad:
            run.notes.append(f'{name} is no number from iteration {bad[0]:g} on ({len(bad)} times)')
    if not run.training and (nested := _nested(run.folder)):
        run.notes.append(nested.strip(' ;'))


def _nested(folder: Path) -> str:
    logs = sorted(folder.glob('*/*/vis_data/scalars.json'))
    inside = dict.fromkeys(str(log.parents[2]) for log in logs)
    return f'; {", ".join(inside)} has a log of its own: name that' if inside else ''


def differing(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Keys in which configs differ -> the value in each, or ``'-'``."""
    flat = [dict(_flatten(config)) for config in configs]
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
