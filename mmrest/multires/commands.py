"""``tools/test.py --resolutions`` and ``--compare``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmengine.config import Config

from mmrest.errors import InputError
from mmrest.multires.report import Report
from mmrest.multires.sweep import (
    OUT_OF_MEMORY,
    Measurement,
    Resolution,
    find_resize,
    main_metric,
    test_in_process,
)


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
    training = training_resolution or min(find_resize(cfg).scale)
    report = Report(cfg.work_dir, cfg, cfg.load_from, training, metric)
    wanted = [Resolution(side) for side in (training, *sorted({*short_sides} - {training}))]
    wanted += [Resolution(training, ratio) for ratio in aspect_ratios]
    shown = False
    for measurement in _measure(cfg, report, wanted):
        if not measurement.error and not shown:
            print(report.header())
            shown = True
        print(report.line(measurement), flush=True)
    print(report.summary())
    print(f'written to {report.folder}/resolutions.csv, .json and .png')
    failed = [m for m in report.measurements if m.error and m.error != OUT_OF_MEMORY]
    if failed:
        raise InputError(f'{len(failed)} of {len(wanted)} resolutions failed; see the table')
    return report


def _measure(cfg: Config, report: Report, wanted: Sequence[Resolution]) -> Iterator[Measurement]:
    known = {m.resolution: m for m in report.measurements}
    for resolution in wanted:
        measurement = known.get(resolution)
        # what failed is tried again
        if measurement is None or measurement.error:
            measurement = test_in_process(cfg, resolution)
            if not measurement.error:
                main_metric(measurement.metrics, report.wanted_metric)
            report.add(measurement)
        yield measurement
