"""``tools/test.py --resolutions`` and ``--compare``."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mmengine.config import Config

from mmrest.commands.image_size import find_resize
from mmrest.errors import InputError, Interrupted
from mmrest.multires.report import Report
from mmrest.multires.sweep import (
    OUT_OF_MEMORY,
    Measurement,
    Resolution,
    measure_in_process,
)
from mmrest.progress import with_time_left


def sweep_resolutions(
    cfg: Config,
    short_sides: Sequence[int],
    aspect_ratios: Sequence[float] = (),
    training_resolution: int | None = None,
    metric: str | None = None,
) -> Report:
    """Test ``cfg.load_from`` at each resolution and print a table as it goes.

    Args:
        cfg: As ``tools/test.py`` makes it; results go to its ``work_dir``.
        short_sides: In pixels. The training resolution is measured too, since retention is relative
            to it.
        aspect_ratios: Width by height that images are stretched to, at the training resolution.
        training_resolution: In pixels; None takes the short side of the config's test pipeline.
        metric: See :func:`mmrest.multires.sweep.main_metric`.

    Returns:
        The report, as written.

    Raises:
        InputError: The arguments do not fit the config, the work directory holds another sweep, or
            a resolution failed for another reason than memory.
    """
    usual = min(find_resize(cfg).scale)
    training = usual if training_resolution is None else training_resolution
    report = Report(cfg.work_dir, cfg, cfg.load_from, training, metric)
    wanted = [Resolution(side) for side in (training, *sorted({*short_sides} - {training}))]
    wanted += [Resolution(training, ratio) for ratio in dict.fromkeys(aspect_ratios)]
    print(f'testing {cfg.load_from} at {len(wanted)} resolutions: {", ".join(map(str, wanted))}')
    failed = 0
    columns = None
    with _ended_by_signals():
        for measurement in _measure(cfg, report, wanted):
            if not measurement.error and columns != report.header():
                columns = report.header()
                print(columns)
            print(report.line(measurement), flush=True)
            failed += measurement.error not in (None, OUT_OF_MEMORY)
    report.save()
    print(report.summary())
    print(f'written to {report.folder}/resolutions.csv, .json and .png')
    if failed:
        raise InputError(f'{failed} of {len(wanted)} resolutions failed; see the table')
    return report


def _measure(cfg: Config, report: Report, wanted: Sequence[Resolution]) -> Iterator[Measurement]:
    known = {m.resolution: m for m in report.measurements}
    for resolution in with_time_left(wanted, 'resolutions'):
        measurement = known.get(resolution)
        # what failed is tried again
        if measurement is None or measurement.error:
            measurement = measure_in_process(cfg, resolution)
            report.add(measurement)
        yield measurement


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Leave in an orderly way, which ends the process that measures, when asked to end."""

    def leave(number: int, frame: object) -> None:
        raise Interrupted('interrupted; the same command goes on where it was', number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
