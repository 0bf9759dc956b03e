"""What a sweep over resolutions found: a table as it goes, files, a picture."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmrest.commands.output_files import require_writable
from mmrest.errors import InputError
from mmrest.multires.sweep import Measurement, Resolution, main_metric, relative_area

# Beside the metric itself, if the evaluator has them.
_DETAILS = ('_s', '_m', '_l')


class Report:
    """The measurements of a checkpoint in ``resolutions.json``, ``.csv`` and ``.png`` of a folder.

    Args:
        folder: Is made if it is not there. What an earlier sweep of the same checkpoint, config and
            training resolution left is taken over.
        cfg: Of the tests.
        checkpoint: The file.
        training_resolution: That retention is relative to, in pixels of the short side.
        metric: The metric to compare; None takes the evaluator's usual one.

    Raises:
        InputError: The folder holds the sweep of something else.
    """

    def __init__(
        self,
        folder: str,
        cfg: Config,
        checkpoint: str,
        training_resolution: int,
        metric: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.checkpoint = str(checkpoint)
        self.model = Path(cfg.filename or 'model').stem
        self.training_resolution = training_resolution
        self.wanted_metric = metric
        self.measurements: list[Measurement] = []
        self.subject = dict(
            config=hashlib.sha256(_tested(cfg).encode()).hexdigest()[:16],
            checkpoint=_fingerprint(checkpoint),
            training_resolution=training_resolution,
        )
        if self._file('json').exists():
            self._take_over()
        require_writable(self.folder)

    def add(self, measurement: Measurement) -> None:
        """Keep a result, at once."""
        others = [m for m in self.measurements if m.resolution != measurement.resolution]
        self.measurements = [*others, measurement]
        self.save()

    @property
    def metric(self) -> str | None:
        """Name of the metric that is compared, once one is known.

        Raises:
            InputError: The wanted metric is none of the evaluator's.
        """
        names = dict.fromkeys(name for m in self.measurements for name in m.metrics)
        return main_metric(names, self.wanted_metric)

    def value(self, measurement: Measurement, name: str | None = None) -> float:
        """A metric; an evaluator that sees no prediction may give none, which is 0."""
        return measurement.metrics.get(name or self.metric, 0.0)

    @property
    def values(self) -> dict[int, float]:
        """Short side -> metric, of the images' own aspect ratio."""
        return {
            m.resolution.short_side: self.value(m)
            for m in self.measurements
            if not m.error and m.resolution.aspect_ratio is None
        }

    @property
    def area(self) -> float | None:
        """See :func:`mmrest.multires.sweep.relative_area`."""
        return relative_area(self.values, self.training_resolution)

    def retention(self, measurement: Measurement) -> float | None:
        """The metric relative to that at the training resolution."""
        reference = self.values.get(self.training_resolution)
        if measurement.error or not reference:
            return None
        return self.value(measurement) / reference

    def header(self) -> str:
        """Of the table."""
        return self._line(self._columns())

    def line(self, measurement: Measurement) -> str:
        """A measurement's row of the table."""
        if measurement.error:
            return f'{measurement.resolution!s:>10}  {measurement.error}'
        values = [self.value(measurement, name) for name in (self.metric, *self._detail_names())]
        retention = self.retention(measurement)
        return self._line(
            [
                str(measurement.resolution),
                *(_shown(value) for value in values),
                f'{measurement.images_per_second:.3g}',
                f'{measurement.peak_bytes / 1e6:.0f}',
                '' if retention is None else f'{retention:.3f}',
            ]
        )

    def summary(self) -> str:
        """The one figure of the model."""
        failed = [str(m.resolution) for m in self.measurements if m.error]
        without = f'; without {", ".join(failed)}' if failed else ''
        if self.area is None:
            few = len(self.values) < 2
            reason = 'it takes two resolutions' if few else f'at {self.training_resolution} it is 0'
            return f'no area under {self.metric}: {reason}{without}'
        low, high = min(self.values), max(self.values)
        return (
            f'area under {self.metric} over log(resolution) from {low} to {high}, relative to '
            f'{self.training_resolution}: {self.area:.3f}{without}'
        )

    def save(self) -> None:
        """Write all three files."""
        ordered = sorted(
            self.measurements,
            key=lambda m: (m.resolution.aspect_ratio or 0, m.resolution.short_side),
        )
        state = dict(
            model=self.model,
            subject=self.subject,
            metric=self.metric,
            area=self.area,
            measurements=[asdict(m) for m in ordered],
        )
        with self._replaced('json') as file:
            file.write_text(json.dumps(state, indent=1))
        with self._replaced('csv') as file:
            self._write_csv(file, ordered)
        if self.values:
            with self._replaced('png') as file:
                draw([self._file('csv')], file)

    def _take_over(self) -> None:
        file = self._file('json')
        try:
            state = json.loads(file.read_text())
            measurements = [
                Measurement(**{**m, 'resolution': Resolution(**m['resolution'])})
                for m in state['measurements']
            ]
            subject = state['subject']
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f'{file} cannot be read ({error}); move it away') from error
        changed = [key for key, value in self.subject.items() if subject.get(key) != value]
        if changed:
            another = ' and '.join(changed).replace('_', ' ')
            another += ' (--cfg-options are a part of it)' if 'config' in changed else ''
            raise InputError(
                f'{file} is the sweep of another {another}; name another --work-dir, or '
                'move it away'
            )
        self.measurements = measurements

    def _detail_names(self) -> list[str]:
        metrics = next((m.metrics for m in self.measurements if not m.error), {})
        return [f'{self.metric}{end}' for end in _DETAILS if f'{self.metric}{end}' in metrics]

    def _columns(self) -> list[str]:
        metrics = [self.metric or 'metric', *self._detail_names()]
        return ['resolution', *metrics, 'images/s', 'peak MB', 'retention']

    def _line(self, cells: Sequence[str]) -> str:
        widths = map(len, self._columns())
        return '  '.join(f'{cell:>{width}}' for cell, width in zip(cells, widths, strict=True))

    def _file(self, ending: str) -> Path:
        return self.folder / f'resolutions.{ending}'

    @contextmanager
    def _replaced(self, ending: str) -> Iterator[Path]:
        """A place to write a file: an interruption leaves the old one or the new one."""
        partial = self.folder / f'.resolutions.{ending}'
        yield partial
        os.replace(partial, self._file(ending))

    def _write_csv(self, path: Path, measurements: Iterable[Measurement]) -> None:
        names = list(dict.fromkeys(name for m in measurements for name in m.metrics))
        rows: list[dict[str, Any]] = []
        for m in measurements:
            retention = self.retention(m)
            rows.append(
                {
                    'model': self.model,
                    'resolution': str(m.resolution),
                    'short side': m.resolution.short_side,
                    'aspect ratio': m.resolution.aspect_ratio or '',
                    **{name: m.metrics.get(name, '') for name in names},
                    'metric': self.metric,
                    'images/s': f'{m.images_per_second:.4g}',
                    'peak MB': f'{m.peak_bytes / 1e6:.0f}',
                    'retention': '' if retention is None else f'{retention:.4f}',
                    'training resolution': self.training_resolution,
                    'error': m.error or '',
                    'checkpoint': self.checkpoint,
                    **m.environment,
                }
            )
        with open(path, 'w', newline='') as file:
            writer = csv.DictWriter(file, dict.fromkeys(key for row in rows for key in row))
            writer.writeheader()
            writer.writerows(rows)


def _shown(value: float) -> str:
    """A metric; COCO's evaluation says -1 where there are no objects of a size."""
    return '-' if value == -1 else f'{value:.4g}'


def draw(files: Sequence[str | Path], picture: str | Path) -> None:
    """Accuracy and speed against resolution, a line for each file.

    Args:
        files: ``resolutions.csv`` of sweeps.
        picture: A file that matplotlib can write.

    Raises:
        InputError: A file is not there or is none of a sweep, or they compare different metrics.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout='constrained')
    accuracy, speed = figure.subplots(1, 2)
    metrics = set()
    tables = [_read(file) for file in files]
    labels = [rows[0]['model'] for rows in tables]
    ticks = sorted({int(row['short side']) for rows in tables for row in rows})
    for file, rows in zip(files, tables, strict=True):
        metrics.add(rows[0]['metric'])
        sides = [int(row['short side']) for row in rows]
        values = [float(row.get(row['metric']) or 0) for row in rows]
        label = rows[0]['model']
        if labels.count(label) > 1:
            label += f' ({Path(file).parent.name})'
        (line,) = accuracy.plot(sides, values, 'o-', label=label)
        accuracy.axvline(int(rows[0]['training resolution']), color=line.get_color(), ls=':', lw=1)
        speed.plot(sides, [float(row['images/s']) for row in rows], 'o-', label=label)
    if len(metrics) > 1:
        raise InputError(f'the files compare different metrics: {", ".join(sorted(metrics))}')
    for axes, name in ((accuracy, metrics.pop()), (speed, 'images/s')):
        axes.set(xscale='log', xlabel='short side of the test images', ylabel=name)
        axes.set_xticks(ticks, [str(tick) for tick in ticks], rotation=45)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    speed.set_yscale('log')
    accuracy.legend()
    try:
        figure.savefig(picture, dpi=120, format=Path(picture).suffix[1:] or 'png')
    except (OSError, ValueError) as error:
        raise InputError(f'{picture} cannot be written: {error}') from error


def _read(file: str | Path) -> list[dict[str, str]]:
    """The measurements of a sweep with the images' own aspect ratio."""
    try:
        with open(file, newline='') as opened:
            rows = list(csv.DictReader(opened))
        rows = [row for row in rows if not row['aspect ratio'] and not row['error']]
        if not rows:
            raise InputError(f'{file} holds no measurement')
        return sorted(rows, key=lambda row: int(row['short side']))
    except OSError as error:
        raise InputError(f'{file} cannot be read: {error}') from error
    except KeyError as error:
        raise InputError(f'{file} is no resolutions.csv of a sweep: no column {error}') from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f'{file} is no resolutions.csv of a sweep: {error}') from error


def _tested(cfg: Config) -> str:
    """What of the config a test's result depends on."""
    parts = [cfg.get(key) for key in ('model', 'test_evaluator', 'test_cfg')]
    parts.append(cfg.test_dataloader.dataset)
    return json.dumps(parts, default=str, sort_keys=True)


def _fingerprint(checkpoint: str) -> str:
    if '://' in checkpoint:
        return checkpoint
    digest = hashlib.sha256()
    with open(os.path.expanduser(checkpoint), 'rb') as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()[:16]
