"""The page: one HTML file without scripts that needs no other file."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jinja2
import numpy as np

from mmrest.report.charts import COLOURS, DASHES, draw_chart
from mmrest.report.runs import Run, Series, Table, differing
from mmrest.version import __version__

# Numbers of a training that are the machine's and not the model's.
_MACHINE = ('time', 'data_time', 'memory')
_RATES = ('lr', 'base_lr', 'momentum', 'grad_norm', 'loss_scale')
_MOST_PICTURES = 8
_LARGEST_PICTURE = 900
# A sweep's table has columns for machines to read; these are for people.
_SWEEP = ('images/s', 'peak MB', 'retention', 'error')
_BENCHMARK = ('model', 'impl', 'shape', 'mode', 'batch', 'dtype', 'ms', 'ms range', 'peak MB')


class Shown(NamedTuple):
    """A table of the page.

    Attributes:
        header: Of its columns.
        rows: Cells of each row.
        name: The file that it is from.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    name: str = ''


def write_page(runs: Sequence[Run], out: Path) -> None:
    """Write a page about runs, compared with each other if there are several.

    Args:
        runs: At least one; their names differ.
        out: The file, which is replaced.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = files('mmrest.report').joinpath('page.html').read_text(encoding='utf-8')
    draw = _Curves(runs)
    with_config = [run for run in runs if run.config is not None]
    page = environment.from_string(text).render(
        title=' and '.join(run.name for run in runs) if len(runs) < 4 else f'{len(runs)} runs',
        runs=runs,
        keys=[_look(number) for number in range(len(runs))],
        metrics=_metrics(runs),
        tests=_tests(runs),
        curves=draw.sections(),
        sweep_chart=draw.sweeps(),
        sweeps=[
            (run, _for_people(table, _sweep_columns(table))) for run in runs for table in run.sweeps
        ],
        benchmarks=[
            (run, _for_people(table, _BENCHMARK)) for run in runs for table in run.benchmarks
        ],
        pictures=[(run, list(_pictures(run)), len(run.pictures)) for run in runs if run.pictures],
        differences=Shown(
            ('key', *(run.name for run in with_config)),
            [
                (key, *values)
                for key, values in differing([run.config for run in with_config]).items()
            ]
            if len(with_config) > 1
            else [],
        ),
        version=__version__,
    )
    out.write_text(page, encoding='utf-8')


def _look(number: int) -> tuple[str, str]:
    """Colour and dashes of a run's lines."""
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]


def _metrics(runs: Sequence[Run]) -> Shown:
    rows = [
        [name, *(_summary(run.evaluation.get(name), run.epochs) for run in runs)]
        for name in _names(run.evaluation for run in runs)
    ]
    return Shown(['metric', *(run.name for run in runs)], rows)


def _summary(points: Series | None, epochs: bool) -> str:
    if not points:
        return '-'
    place, best = max(points, key=lambda point: point[1])
    unit = 'epoch' if epochs else 'iteration'
    return f'{points[-1][1]:.4g} ({best:.4g}, {unit} {place:g})'


def _tests(runs: Sequence[Run]) -> Shown:
    names = _names(metrics for run in runs for _, metrics in run.tests)
    rows = [
        [run.name, place, *(f'{metrics[n]:.4g}' if n in metrics else '-' for n in names)]
        for run in runs
        for place, metrics in run.tests
    ]
    return Shown(['run', 'folder', *names], rows)


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
        units = {run.epochs for run in self.runs if run.evaluation}
        unit = ' or '.join({True: 'epoch', False: 'iteration'}[each] for each in sorted(units))
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
            lines = [
                (*_look(number), series(run)[name])
                for number, run in enumerate(self.runs)
                if series(run).get(name)
            ]
            charts.append((name, draw_chart(lines, x_label, f'{name} by {x_label}')))
        return charts

    def sweeps(self) -> tuple[str, str] | None:
        """The metric of the first sweep against the resolution, of all that have it."""
        lines, metric = [], None
        for number, run in enumerate(self.runs):
            for table in run.sweeps:
                metric = metric or table.rows[0].get('metric')
                points = [
                    (_number(row.get('short side')), _number(row.get(metric or '')))
                    for row in table.rows
                    if not row.get('aspect ratio')
                ]
                points = sorted(point for point in points if None not in point)
                if points:
                    lines.append((*_look(number), points))
        if not lines:
            return None
        x_label = 'resolution (pixels)'
        return metric, draw_chart(lines, x_label, f'{metric} by {x_label}', log_x=True)


def _number(text: str | None) -> float | None:
    try:
        return float(text or '')
    except ValueError:
        return None


def _for_people(table: Table, columns: Sequence[str]) -> Shown:
    wanted = [name for name in columns if any(row.get(name) for row in table.rows)]
    rows = [[row.get(name) or '' for name in wanted] for row in table.rows]
    return Shown(wanted, rows, table.name)


def _sweep_columns(table: Table) -> Sequence[str]:
    metric = table.rows[0].get('metric')
    return 'resolution', *([metric] if metric else []), *_SWEEP


def _pictures(run: Run) -> Iterator[tuple[str, str]]:
    """Some pictures, from all over the list, small enough for a page."""
    chosen = np.linspace(0, len(run.pictures) - 1, min(_MOST_PICTURES, len(run.pictures)))
    for file in (run.pictures[i] for i in chosen.round().astype(int)):
        picture = cv2.imread(str(file))
        if picture is None:
            continue
        factor = _LARGEST_PICTURE / max(picture.shape[:2])
        if factor < 1:
            size = [max(1, round(side * factor)) for side in picture.shape[1::-1]]
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        data = base64.b64encode(cv2.imencode('.jpg', picture)[1]).decode()
        yield str(file.relative_to(run.folder)), f'data:image/jpeg;base64,{data}'
