"""Time and peak memory of backbones and whole models, each in a process of its own.

A worker is this module run as a script. It builds its model and then takes one step for each line
that it is sent, so that several models can take their steps in turn and what else the machine does
meets all of them alike.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, TextIO

import torch
from torch import Tensor, nn

from mmrest.benchmark.machine import peak_memory
from mmrest.benchmark.models import Step, build_step
from mmrest.engine.compiling import compile_backbone
from mmrest.engine.image_channels import image_channels
from mmrest.inference import fuse
from mmrest.ops.dispatch import VARIABLE
from mmrest.progress import with_time_left


@dataclass(frozen=True)
class Case:
    """What a worker measures.

    Attributes:
        model: Config of a backbone, for mmengine's registry (mmdet's are found by ``mmdet.`` or
            ``mmseg.`` before the type), or the path of a whole model's config.
        shape: (height, width) of the images.
        mode: ``'infer'``, or ``'train'`` for a forward and a backward pass.
        batch_size: Images of a step.
        dtype: ``'float32'``, ``'bfloat16'`` or ``'float16'``; parameters stay in float32 and the
            others are autocast.
        device: ``'cpu'`` or ``'cuda'``.
        threads: Processor threads; 0 leaves torch's choice.
        impl: The implementation of the operators, see :mod:`mmrest.ops.dispatch`.
        compiled: Whether torch.compile compiles the backbone.
        fused: Whether inference is with the model fused, see :func:`mmrest.inference.fuse`.
        prepare: A Python file and an argument: the worker calls the file's ``prepare`` with it
            before it builds the model.
    """

    model: dict[str, Any] | str
    shape: tuple[int, int]
    mode: str = 'infer'
    batch_size: int = 1
    dtype: str = 'float32'
    device: str = 'cpu'
    threads: int = 0
    impl: str = 'auto'
    compiled: bool = False
    fused: bool = False
    prepare: tuple[str, str] | None = None


@dataclass
class Result:
    """What was measured.

    Attributes:
        case: What was asked for.
        seconds: Of each step.
        peak_bytes: Most memory of the process (CPU) or of the device (CUDA) during the steps.
        base_bytes: The same before the first step: model, images and, on a CPU, the libraries.
        error: Why there is no measurement.
    """

    case: Case
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    base_bytes: int = 0
    error: str | None = None

    @property
    def work_bytes(self) -> int:
        """Memory of the steps themselves: activations, gradients, workspaces."""
        return self.peak_bytes - self.base_bytes

    @property
    def median_seconds(self) -> float:
        """Median over the steps."""
        return median(self.seconds)


def measure_in_turn(cases: Sequence[Case], steps: int) -> list[Result]:
    """Measure several cases, one step of each in turn.

    Args:
        cases: All of them are in memory together.
        steps: Of each case, after one that is not counted.

    Returns:
        A result for each case; a worker that failed leaves its last words in ``error``.
    """
    results = [Result(case) for case in cases]
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(case)) for case in cases]
        for step in with_time_left(range(steps + 1), 'steps of each'):
            for (worker, errors), result in zip(workers, results, strict=True):
                if result.error is None:
                    _take_step(worker, errors, result, counts=step > 0)
    return results


def _take_step(worker: subprocess.Popen, errors: TextIO, result: Result, counts: bool) -> None:
    try:
        worker.stdin.write('step\n')
        worker.stdin.flush()
        answer = json.loads(worker.stdout.readline())
    except (OSError, ValueError):
        worker.stdin.close()
        worker.wait()
        errors.seek(0)
        lines = errors.read().strip().splitlines()
        result.error = lines[-1] if lines else f'the process ended with {worker.returncode}'
        return
    result.peak_bytes, result.base_bytes = answer['peak_bytes'], answer['base_bytes']
    if counts:
        result.seconds.append(answer['seconds'])


@contextmanager
def _worker(case: Case) -> Iterator[tuple[subprocess.Popen, TextIO]]:
    """A process that measures a case, and the file of what it complains about."""
    command = [sys.executable, '-m', __name__, json.dumps(asdict(case))]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    environment = {**os.environ, VARIABLE: case.impl}
    # not a pipe: a worker with many warnings would fill it and wait for ever
    with (
        tempfile.TemporaryFile('w+') as errors,
        subprocess.Popen(command, text=True, stderr=errors, env=environment, **pipes) as process,
    ):
        try:
            yield process, errors
        finally:
            process.kill()


def take_step(model: nn.Module, step: Step, images: Tensor, case: Case) -> None:
    """A forward pass, for training also a backward pass."""
    autocast = torch.autocast(
        case.device, getattr(torch, case.dtype), enabled=case.dtype != 'float32'
    )
    if case.mode == 'infer':
        with torch.no_grad(), autocast:
            step(model, images)
    else:
        with autocast:
            loss = step(model, images)
        loss.backward()
        model.zero_grad(set_to_none=True)
    if case.device == 'cuda':
        torch.cuda.synchronize()


def _serve(case: Case) -> None:
    """The worker: a line of JSON for each line that it reads."""
    if case.threads:
        torch.set_num_threads(case.threads)
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    torch.manual_seed(0)
    if case.prepare:
        file, argument = case.prepare
        runpy.run_path(file)['prepare'](argument)
    model, step = build_step(case.model, case.shape, case.mode, case.batch_size)
    model = model.to(case.device)
    model.train(case.mode == 'train')
    if case.fused and case.mode == 'infer':
        model = fuse(model, inplace=True)
    if case.compiled:
        compile_backbone(model)
    channels = image_channels(model)
    images = torch.randn(case.batch_size, channels, *case.shape, device=case.device)
    memory = peak_memory(case.device)
    base_bytes = memory.reset()
    for _ in sys.stdin:
        start = time.perf_counter()
        take_step(model, step, images, case)
        seconds = time.perf_counter() - start
        answer = dict(seconds=seconds, peak_bytes=memory.peak(), base_bytes=base_bytes)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
    given = json.loads(sys.argv[1])
    _serve(Case(**{**given, 'shape': tuple(given['shape'])}))
