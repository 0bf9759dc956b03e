"""Fixtures that several test modules use."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmrest.datasets import write_shapes
from tests import config_text, forked  # noqa: F401  (the import is the effect)

ROOT = Path(__file__).parents[1]

# The tests' tensors are tiny: handing them to a second thread costs more than it saves. Where tests
# run on all cores, the waiting threads of the processes that they start stall each other.
torch.set_num_threads(1)
os.environ.setdefault('OMP_NUM_THREADS', '1')


def last_checkpoint(cfg: Config) -> str:
    """Name of the file that a whole training ends with."""
    by_epoch = cfg.train_cfg.get('max_epochs')
    return f'epoch_{by_epoch}.pth' if by_epoch else f'iter_{cfg.train_cfg.max_iters}.pth'


def pytest_configure() -> None:
    # what a shell starts in the background ignores interrupts, and so would all that tests start
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    # mmengine collects garbage for every data set: half a second in what was loaded until here
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    # the pipelines' flips and crops draw from all three generators
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _handlers_as_before() -> Iterator[None]:
    """A training that fails leaves its handlers to a process that ends."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _no_default_scope() -> Iterator[None]:
    # one that a test leaves behind decides what the next test's names mean
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope='session')
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small built-in data set with as many images as the command-line tests need."""
    return write_shapes(tmp_path_factory.mktemp('data') / 'shapes', num_train=12, num_val=4)


@pytest.fixture
def run_tool() -> Callable[..., subprocess.CompletedProcess]:
    """Run a command line of ``tools/`` from the repository's root, as a user does."""
    return _runner_of('tools')


@pytest.fixture
def run_script() -> Callable[..., subprocess.CompletedProcess]:
    """Run a script of ``docs/scripts/`` from the repository's root."""
    return _runner_of('docs/scripts')


def _runner_of(folder: str) -> Callable[..., subprocess.CompletedProcess]:
    def run(name: str, *args: object, cwd: str | os.PathLike = ROOT) -> subprocess.CompletedProcess:
        command = [str(ROOT / folder / name), *map(str, args)]
        environment = {**os.environ, 'CUDA_VISIBLE_DEVICES': ''}
        return forked.run_script(command, cwd, environment, timeout=300)

    return run
