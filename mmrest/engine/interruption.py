"""Ending a training in order when it is told to: Ctrl-C, and SIGTERM as clusters send it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmrest.engine.checkpointing import BATCHES, INTERRUPTED, AtomicBackend
from mmrest.errors import InputError, Interrupted

# what a worker of a data loader waits for its parent's end when both are told to end
_SECONDS_OF_WORKERS = 60


@HOOKS.register_module()
class StopHook(Hook):
    """Saves a checkpoint and ends the training after the iteration in which a signal comes.

    A second signal ends it at once. Several processes agree on it after training iterations alone:
    in a validation their numbers of batches may differ.
    """

    priority = 'LOWEST'  # after what averages weights, and after the checkpoint of that iteration

    def __init__(self) -> None:
        self._signal: int | None = None
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Called by the runner before the first epoch."""
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread gets signals
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._ask)
        for loop in (runner._train_loop, runner._val_loop):
            loader = getattr(loop, 'dataloader', None)
            if isinstance(loader, DataLoader) and loader.num_workers:
                loader.worker_init_fn = _OutlivesSignals(loader.worker_init_fn)

    def after_train(self, runner: Runner) -> None:
        """Called by the runner after the last epoch."""
        self._restore()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Called by the runner after each step.

        Raises:
            Interrupted: A signal has come.
        """
        at_step = getattr(runner.optim_wrapper, 'should_update', lambda: True)
        if not self._is_asked() or not at_step():  # gradients that are summed up are not saved
            return
        done = batch_idx + 1 if isinstance(runner.train_loop, EpochBasedTrainLoop) else 0
        self._stop(runner, done, runner.iter + 1, f'iteration {runner.iter + 1}')

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Called by the runner after each step of a validation.

        Raises:
            Interrupted: A signal has come.
        """
        if self._signal is not None and get_world_size() == 1:
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(runner)  # puts the trained weights back
            self._stop(runner, 0, runner.iter, f'the validation after iteration {runner.iter}')

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Called by the runner between reading and loading."""
        meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
        resumes = runner._resume and isinstance(runner._train_loop, ResumableEpochLoop)
        if resumes and isinstance(meta, dict):
            batches = meta.get(BATCHES, (0, 0))
            is_pair = isinstance(batches, tuple | list) and len(batches) == 2
            if not is_pair or not all(isinstance(n, int) and n >= 0 for n in batches):
                raise InputError(
                    f'the checkpoint cannot be resumed: {BATCHES}={batches!r} is no pair of the '
                    'batches that are done and those of an epoch'
                )
            runner._train_loop.go_on_within_epoch(tuple(batches))

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker of a data loader
            _await_parent(number, frame)
            return
        self._signal = number
        self._restore()  # the next one does what it always does

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _is_asked(self) -> bool:
        """Whether a signal came to any of the processes."""
        if get_world_size() == 1:
            return self._signal is not None
        number = torch.tensor(self._signal or 0)
        all_reduce(number, op='max')
        self._signal = int(number) or None
        return self._signal is not None

    def _stop(self, runner: Runner, batches: int, iteration: int, when: str) -> None:
        self._restore()
        meta = dict(epoch=runner.epoch, iter=iteration)
        if batches:
            meta[BATCHES] = (batches, len(runner.train_dataloader))
        runner.save_checkpoint(runner.work_dir, INTERRUPTED, meta=meta, by_epoch=False)
        path = os.path.join(runner.work_dir, INTERRUPTED)
        if runner.rank == 0:
            AtomicBackend().put_text(path, os.path.join(runner.work_dir, 'last_checkpoint'))
        barrier()  # who ends first would have the others ended, perhaps while they save
        name = signal.Signals(self._signal).name
        raise Interrupted(
            f'ended by {name} in {when}; saved {path}: --resume goes on from there', self._signal
        )


class _OutlivesSignals:
    """Keeps a data loader's worker alive when all processes are told to end.

    Its parent goes on to the end of an iteration and would fail without it. torch gives workers a
    handler of SIGTERM that ends them, which is right for what their parent sends alone.
    """

    def __init__(self, init: Callable[[int], None] | None) -> None:
        self._init = init

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGINT, _await_parent)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_parent_says, daemon=True).start()
        if self._init is not None:
            self._init(worker)


def _end_when_parent_says() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _await_parent(number: int, frame: FrameType | None) -> None:
    """A worker's parent ends it, and else an alarm does."""
    signal.alarm(_SECONDS_OF_WORKERS)


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's loop, which goes on within an epoch if the checkpoint is from within one."""

    _batches = (0, 0)

    def go_on_within_epoch(self, batches: tuple[int, int]) -> None:
        """Leave out the first batches of the next epoch.

        Args:
            batches: How many are done, and how many an epoch had; with another batch size or
                number of processes now, the epoch is begun anew.
        """
        done, of = batches
        if done and of != len(self.dataloader):
            self.runner.logger.warning(
                f'the checkpoint is from batch {done} of {of} of an epoch, which has '
                f'{len(self.dataloader)} now: the epoch begins anew'
            )
            done = 0
        self._batches = (done, of)

    def run_epoch(self) -> None:
        """Iterate one epoch, or the rest of one."""
        first, self._batches = self._batches[0], (0, 0)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        loader = _rest_of_epoch(self.dataloader, first) if first else self.dataloader
        for index, data_batch in enumerate(loader, start=first):
            self.run_iter(index, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


def _rest_of_epoch(loader: DataLoader, first: int) -> DataLoader:
    """A loader of the same epoch without its first batches, whose images are not read."""
    return DataLoader(
        loader.dataset,
        batch_sampler=_Rest(loader.batch_sampler, first),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        prefetch_factor=loader.prefetch_factor,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )


class _Rest:
    def __init__(self, batches: Any, first: int) -> None:
        self._batches = batches
        self._first = first

    def __iter__(self) -> Iterator[list[int]]:
        for number, batch in enumerate(self._batches):
            if number >= self._first:
                yield batch

    def __len__(self) -> int:
        return len(self._batches) - self._first


def use_resumable_epochs(runner: Runner) -> None:
    """Let mmengine's own loop over epochs, and no other, be :class:`ResumableEpochLoop`."""
    loop = runner._train_loop
    if isinstance(loop, dict) and loop.get('type', 'EpochBasedTrainLoop') == 'EpochBasedTrainLoop':
        by_epoch = loop.get('by_epoch', True)
        if by_epoch or 'type' in loop:
            kept = {k: v for k, v in loop.items() if k not in ('type', 'by_epoch')}
            runner._train_loop = {'type': ResumableEpochLoop, **kept}
