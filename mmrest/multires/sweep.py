"""Testing one checkpoint at several resolutions."""

from __future__ import annotations

import contextlib
import copy
import math
import os
import signal
import tempfile
import time
import warnings
from collections.abc import Collection
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from mmrest.benchmark.machine import describe_machine, peak_memory
from mmrest.commands.cli import build_runner
from mmrest.commands.image_size import find_resize
from mmrest.errors import InputError, is_out_of_memory

# The first of these that an evaluator returns is the metric that is compared.
_MAIN_METRICS = ('coco/bbox_mAP', 'mIoU', 'pascal_voc/mAP')
OUT_OF_MEMORY = 'out of memory'


@dataclass(frozen=True)
class Resolution:
    """A size of test images.

    Attributes:
        short_side: The smaller number of the pipeline's scale, in pixels; the larger one is scaled
            with it. (With a square scale that keeps the aspect ratio, images get it as the long
            side.)
        aspect_ratio: Width by height that images are stretched to; None keeps theirs.
    """

    short_side: int
    aspect_ratio: float | None = None

    def __str__(self) -> str:
        if self.aspect_ratio is None:
            return str(self.short_side)
        width, height = self._stretched()
        return f'{width}x{height}'

    def _stretched(self) -> tuple[int, int]:
        ratio = self.aspect_ratio
        long_side = round(self.short_side * max(ratio, 1 / ratio))
        return (long_side, self.short_side) if ratio >= 1 else (self.short_side, long_side)

    def apply_to(self, resize: ConfigDict) -> None:
        """Change a ``Resize`` transform of a test pipeline."""
        if self.aspect_ratio is not None:
            resize.update(scale=self._stretched(), keep_ratio=False)
            return
        factor = self.short_side / min(resize.scale)
        width, height = (
            self.short_side if side == min(resize.scale) else round(side * factor)
            for side in resize.scale
        )
        resize.scale = (width, height)


@dataclass
class Measurement:
    """A checkpoint's test at a resolution.

    Attributes:
        resolution: Of the test.
        metrics: What the evaluator says.
        images_per_second: Preprocessing, forward and postprocessing; not loading, not evaluation.
        peak_bytes: Most memory of the process, or of tensors on the GPU.
        error: Why there is no measurement.
        environment: Where and when it was taken.
    """

    resolution: Resolution
    metrics: dict[str, float] = field(default_factory=dict)
    images_per_second: float = 0.0
    peak_bytes: int = 0
    error: str | None = None
    environment: dict[str, Any] = field(default_factory=dict)


def measure_at(cfg: Config, resolution: Resolution) -> Measurement:
    """Test ``cfg.load_from`` at a resolution, in this process.

    Args:
        cfg: As ``tools/test.py`` makes it; is not changed.
        resolution: Of the test images.

    Returns:
        The measurement; running out of memory is an ``error`` of it.
    """
    cfg = copy.deepcopy(cfg)
    resolution.apply_to(find_resize(cfg))
    cfg.log_level = 'ERROR'
    result = Measurement(resolution, environment=_describe_environment())
    with open(os.devnull, 'w') as nowhere, contextlib.redirect_stdout(nowhere):  # libraries print
        try:
            _measure(cfg, result)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            result.error = OUT_OF_MEMORY
    return result


def _measure(cfg: Config, result: Measurement) -> None:
    runner = build_runner(cfg)
    timed = _time_steps(runner)
    memory = peak_memory(next(runner.model.parameters()).device.type)
    memory.reset()
    metrics = runner.test()
    result.metrics = {name: float(value) for name, value in metrics.items() if np.isscalar(value)}
    result.peak_bytes = memory.peak()
    # the first step warms up, unless it is the only one
    counted = timed[1:] or timed
    result.images_per_second = sum(n for n, _ in counted) / sum(seconds for _, seconds in counted)


def measure_in_process(cfg: Config, resolution: Resolution) -> Measurement:
    """:func:`measure_at` in a process of its own, whose end is no more than an ``error``.

    Raises:
        InputError: The config or the checkpoint is wrong, whatever the resolution.
    """
    context = get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(cfg, resolution, sender))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        # what Linux does to a process when memory is short
        killed = process.exitcode == -signal.SIGKILL
        reason = OUT_OF_MEMORY if killed else f'the process ended with {process.exitcode}'
        return Measurement(resolution, error=reason)
    finally:
        process.kill()
        process.join()
    if isinstance(result, InputError):
        raise result
    return result


def main_metric(metrics: Collection[str], wanted: str | None = None) -> str | None:
    """The name of the metric to compare; None of no metrics.

    Raises:
        InputError: ``wanted`` is not among them.
    """
    if wanted is not None and metrics and wanted not in metrics:
        raise InputError(f'--metric {wanted} is none of the metrics: {", ".join(metrics)}')
    if wanted is not None:
        return wanted
    usual = [name for name in _MAIN_METRICS if name in metrics]
    return next(iter([*usual, *metrics]), None)


def relative_area(values: dict[int, float], training_resolution: int) -> float | None:
    """Area under a metric over log(resolution), relative to its value at the training resolution.

    It is the mean retention over the measured range of log(resolution), by the trapezoidal rule: 1
    for a metric that no resolution changes.

    Args:
        values: Resolution in pixels -> metric; at least two, among them the training resolution.
        training_resolution: In pixels.

    Returns:
        The area, or None where it is not defined.
    """
    reference = values.get(training_resolution)
    if len(values) < 2 or not reference:
        return None
    resolutions = sorted(values)
    logs = np.log(resolutions)
    area = np.trapezoid([values[r] for r in resolutions], logs)
    return float(area / (logs[-1] - logs[0]) / reference)


def _serve(cfg: Config, resolution: Resolution, sender: Connection) -> None:
    # registers in this process what reading the config registered in the other
    warnings.simplefilter('ignore')  # they would be between the lines of the table
    import_modules_from_strings(**cfg.get('custom_imports', dict(imports=['mmrest'])))
    try:
        with tempfile.TemporaryDirectory() as cfg.work_dir:
            result = measure_at(cfg, resolution)
    except InputError as error:
        result = error
    except Exception as error:  # whatever a model says of a size, the next one is to be tested
        text = str(error).strip().splitlines() or ['']
        result = Measurement(resolution, error=f'{type(error).__name__}: {text[-1]}')
    sender.send(result)


def _describe_environment() -> dict[str, str]:
    facts = describe_machine('cuda' if torch.cuda.is_available() else 'cpu', threads=0)
    return {name: facts[name] for name in ('device', 'threads', 'torch', 'date')}


def _time_steps(runner: Runner) -> list[tuple[int, float]]:
    """A list that fills with (images, seconds) of each test step."""
    timed: list[tuple[int, float]] = []
    step = runner.model.test_step

    def timed_step(data: Any) -> Any:
        start = time.perf_counter()
        outputs = step(data)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        timed.append((len(outputs), time.perf_counter() - start))
        return outputs

    runner.model.test_step = timed_step
    return timed


def parse_aspect_ratio(text: str) -> float:
    """Width by height of ``4:3`` or ``1.5``.

    Raises:
        InputError: It is neither.
    """
    try:
        width, _, height = text.partition(':')
        ratio = float(width) / float(height or 1)
    except (ValueError, ZeroDivisionError):
        ratio = 0.0
    if not (ratio > 0 and math.isfinite(ratio)):
        raise InputError(f'{text} is no aspect ratio; write WIDTH:HEIGHT, for example 4:3')
    return ratio
