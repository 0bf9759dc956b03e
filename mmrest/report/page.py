"""The page: one HTML file without scripts that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from mmrest.report.charts import COLOURS, draw_chart
from mmrest.report.runs import Run, Series, Table, differing
from mmrest.version import __version__

# Numbers of a training that are the machine's and not the model's.
_MACHINE = ('time', 'data_time', 'memory')
_RATES = ('lr', 'base_lr', 'momentum', 'grad_norm', 'loss_scale')
_MOST_PICTURES = 8
_LARGEST_PICTURE = 900
# A sweep's table has columns for machines to read; these are for people.
_SWEEP = ('resolution', 'images/s', 'peak MB', 'retention', 'error')
_BENCHMARK = ('model', 'impl', 'shape', 'mode', 'batch', 'dtype', 'ms', 'ms range', 'peak MB')


def write_page(runs: Sequence[Run], out: Path) -> None:
    """Write a page about runs, compared with each other if there are several.

    Args:
        runs: At least one. Their names should differ.
        out: The file, which is replaced.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files('mmrest.report').joinpath('page.html').read_text())
    draw = _Curves(runs)
    out.write_text(
        template.render(
            title=' and '.join(run.name for run in runs) if len(runs) < 4 else f'{len(runs)} runs',
            runs=runs,
            colours=[COLOURS[i % len(COLOURS)] for i in range(len(runs))],
            metrics=list(_metrics(runs)),
            tests=list(_tests(runs)),
            curves=draw.sections(),
            sweep_chart=draw.sweeps(),
            sweeps=[
                (run, _for_people(table, _sweep_columns)) for run, table in _all(runs, 'sweeps')
            ],
            benchmarks=[
                (run, _for_people(table, _benchmark_columns))
                for run, table in _all(runs, 'benchmarks')
            ],
            pictures=[
                (run, list(_pictures(run)), len(run.pictures)) for run in runs if run.pictures
            ],
            differences=differing(run.config for run in runs if run.config)
            if len(runs) > 1
            else {},
            version=__version__,
        )
    )


def _all(runs: Iterable[Run], kind: str) -> Iterator[tuple[Run, Table]]:
    for run in runs:
        for table in getattr(run, kind):
            yield run, table


def _metrics(runs: Sequence[Run]) -> Iterator[dict[str, str]]:
    for name in _names(run.evaluation for run in runs):
        row = {'metric': name}
        for run in runs:
            points = run.evaluation.get(name)
            row[run.name] = (
                _summary(points, 'epoch' if run.epochs else 'iteration') if points else '-'
            )
        yield row


def _summary(points: Series, unit: str) -> str:
    place, best = max(points, key=lambda point: point[1])
    return f'{points[-1][1]:.4g} ({best:.4g}, {unit} {place:g})'


def _tests(runs: Sequence[Run]) -> Iterator[dict[str, str]]:
    names = _names(metrics for run in runs for _, metrics in run.tests)
    for run in runs:
        for place, metrics in run.tests:
            row = {'run': run.name, 'folder': place}
            yield row | {name: f'{metrics[name]:.4g}' if name in metrics else '-' for name in names}


def _names(dicts: Iterable[dict[str, Any]]) -> list[str]:
    """All keys, in the order in which they come."""
    return list(dict.fromkeys(name for each in dicts for name in each))


class _Curves:
    """Charts of several runs, a colour for each."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs

    def sections(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Heading -> (name, SVG) of each chart."""
        names = _names(run.training for run in self.runs)
        machine = [name for name in names if name in _MACHINE]
        rates = [name for name in names if name in _RATES and not self._is_twin(name)]
        losses = [name for name in names if name not in (*_MACHINE, *_RATES)]
        losses.sort(key=lambda name: name != 'loss')
        unit = 'epoch' if all(run.epochs for run in self.runs) else 'epoch or iteration'
        unit = 'iteration' if not any(run.epochs for run in self.runs) else unit
        metrics = [
            name
            for name in _names(run.evaluation for run in self.runs)
            if any(len(run.evaluation.get(name, ())) > 1 for run in self.runs)
        ]
        return [
            ('Validation', self._charts(metrics, unit, lambda run: run.evaluation)),
            ('Losses', self._charts(losses, 'iteration', lambda run: run.training)),
            (
                'Learning rate and gradients',
                self._charts(rates, 'iteration', lambda run: run.training),
            ),
            (
                'Time (s) and memory (MB) of a step',
                self._charts(machine, 'iteration', lambda run: run.training),
            ),
        ]

    def _is_twin(self, name: str) -> bool:
        """True for ``base_lr`` where no parameter has a rate of its own."""
        return name == 'base_lr' and all(
            run.training.get(name) == run.training.get('lr') for run in self.runs
        )

    def _charts(
        self, names: Iterable[str], x_label: str, series: Callable[[Run], dict[str, Series]]
    ) -> list[tuple[str, str]]:
        charts = []
        for name in names:
            lines = {
                run.name: (COLOURS[i % len(COLOURS)], series(run)[name])
                for i, run in enumerate(self.runs)
                if series(run).get(name)
            }
            if lines:
                charts.append((name, draw_chart(lines, x_label, f'{name} by {x_label}')))
        return charts

    def sweeps(self) -> tuple[str, str] | None:
        """The compared metric against the resolution, where sweeps have the same one."""
        lines, metric = {}, None
        for i, run in enumerate(self.runs):
            for table in run.sweeps:
                metric = metric or table.rows[0].get('metric')
                points = [
                    (float(row['short side']), float(row[metric]))
                    for row in table.rows
                    if metric and row.get(metric) and not row.get('aspect ratio')
                ]
                if points:
                    lines[f'{run.name} {table.name}'] = (COLOURS[i % len(COLOURS)], sorted(points))
        if not lines:
            return None
        x_label = 'resolution (pixels)'
        return metric, draw_chart(lines, x_label, f'{metric} by {x_label}', log_x=True)


def _for_people(table: Table, columns: Callable[[dict[str, str]], Sequence[str]]) -> Table:
    wanted = [name for name in columns(table.rows[0]) if any(row.get(name) for row in table.rows)]
    return Table(table.name, [{name: row.get(name) or '' for name in wanted} for row in table.rows])


def _sweep_columns(row: dict[str, str]) -> Sequence[str]:
    return 'resolution', *([row['metric']] if row.get('metric') else []), *_SWEEP[1:]


def _benchmark_columns(row: dict[str, str]) -> Sequence[str]:
    return _BENCHMARK


def _pictures(run: Run) -> Iterator[tuple[str, str]]:
    """Some pictures, from all over the list, small enough for a page."""
    chosen = np.linspace(0, len(run.pictures) - 1, min(_MOST_PICTURES, len(run.pictures)))
    for file in (run.pictures[i] for i in chosen.round().astype(int)):
        picture = cv2.imread(str(file))
        if picture is None:
            continue
        factor = _LARGEST_PICTURE / max(picture.shape[:2])
        if factor < 1:
            picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        data = base64.b64encode(cv2.imencode('.jpg', picture)[1]).decode()
        yield str(file.relative_to(run.folder)), f'data:image/jpeg;base64,{data}'
