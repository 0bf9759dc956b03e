"""Random numbers that depend on the seed and the iteration alone."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmrest.checkpoints import read_checkpoint

_DATA, _STEP = 0, 1


@HOOKS.register_module()
class SeedIterationsHook(Hook):
    """Seeds every iteration by itself, so that a resumed training draws what it would have drawn.

    The seed is the run's, which checkpoints keep. What a validation, a saved checkpoint or the
    iterations before it have drawn makes no difference then. In a step every process of a
    distributed training draws its own numbers: with equal ones, drop path would drop the same
    blocks for the images of all GPUs. Worker processes of a data loader draw from their own
    generators, which mmengine seeds when they start: with them a resumed training is the same only
    where they start with each epoch (``persistent_workers=False``).
    """

    priority = 'LOWEST'

    def before_train_epoch(self, runner: Runner) -> None:
        """Called by the runner before it takes the first batch."""
        _seed(runner, _DATA, runner.iter)
        if runner.iter and hasattr(runner.train_loop, 'dataloader_iterator'):
            runner.train_loop.dataloader_iterator = _SeededBatches(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Called by the runner before each step."""
        _seed(runner, _STEP, runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Called by the runner after each step, before it takes the next batch."""
        _seed(runner, _DATA, runner.iter + 1)

    def after_val(self, runner: Runner) -> None:
        """Called by the runner after a validation."""
        _seed(runner, _DATA, runner.iter)


def use_seed_of_checkpoint(cfg: Config) -> int | None:
    """Let a resumed training go on with the seed that it began with, drawn or given.

    mmengine takes it from the checkpoint as well, but after it has built what shuffles the images.

    Args:
        cfg: Whose ``load_from`` is resumed from; its ``randomness`` is changed.

    Returns:
        Another seed that the config gives, which does not count.
    """
    checkpoint = read_checkpoint(cfg.load_from)
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    seed = meta.get('seed') if isinstance(meta, Mapping) else None
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        return None
    given = cfg.get('randomness') or {}
    cfg.randomness = {**given, 'seed': seed}
    return given.get('seed') if given.get('seed') != seed else None


class _SeededBatches:
    """What a resumed loop of iterations takes its batches from, which seeds before each.

    The loop first takes, without a hook between, the batches that it has had.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._batches = runner.train_loop.dataloader_iterator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)

    def __next__(self) -> Any:
        _seed(self._runner, _DATA, self._runner.iter)
        return next(self._batches)


def _seed(runner: Runner, purpose: int, iteration: int) -> None:
    parts = [runner.seed, purpose, iteration]
    if purpose == _STEP or runner._randomness_cfg.get('diff_rank_seed'):
        parts.append(runner.rank)
    seed = int(np.random.SeedSequence(parts).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
