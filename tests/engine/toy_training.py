"""A training of milliseconds, whose losses show every random number that it draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

from mmrest.checkpoints import use_safe_reader
from mmrest.engine.checkpointing import use_safe_checkpoints
from mmrest.engine.interruption import StopHook, use_resumable_epochs
from mmrest.engine.randomness import SeedIterationsHook


class NoisyNumbers(torch.utils.data.Dataset):
    """Ten numbers, each with noise as an augmentation draws it."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.tensor([float(index) + np.random.rand()]), data_samples=index)


class NoisyLine(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)
        nn.init.constant_(self.line.weight, 0.5)
        nn.init.zeros_(self.line.bias)

    def forward(self, inputs: Tensor, data_samples: list, mode: str = 'tensor') -> dict | list:
        inputs = torch.stack(list(inputs))
        if mode == 'predict':
            return [torch.rand(()) for _ in inputs]
        return dict(loss=self.line(inputs * torch.rand_like(inputs)).square().mean())


class Watcher(Hook):
    """Keeps the losses, and does something after an iteration."""

    def __init__(self, after: int | None = None, action: object = None) -> None:
        self.losses: dict[int, float] = {}
        self.after, self.action = after, action

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: dict
    ) -> None:
        self.losses[runner.iter] = float(outputs['loss'].detach())
        if runner.iter + 1 == self.after:
            self.action()


def make_runner(
    work_dir: Path, epochs: bool, workers: int = 0, resume_from: str | None = None, **options
) -> Runner:
    """Three epochs of five batches, or 15 iterations, with a validation in between."""
    loader = dict(dataset=NoisyNumbers(), num_workers=workers)
    length = dict(max_epochs=3, val_interval=1) if epochs else dict(max_iters=15, val_interval=4)
    checkpoint = dict(type='CheckpointHook', by_epoch=epochs, interval=1 if epochs else 3)
    runner = Runner(
        NoisyLine(),
        str(work_dir),
        train_dataloader=dict(
            batch_size=2,
            sampler=dict(type='DefaultSampler' if epochs else 'InfiniteSampler', shuffle=True),
            **loader,
        ),
        val_dataloader=dict(
            batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False), **loader
        ),
        train_cfg=dict(by_epoch=epochs, **length),
        val_cfg=dict(),
        val_evaluator=dict(
            type='mmengine.evaluator.DumpResults', out_file_path=f'{work_dir}/o.pkl'
        ),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3, momentum=0.9)),
        param_scheduler=dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=15),
        default_hooks=dict(checkpoint={**checkpoint, **options}, logger=None),
        randomness=dict(seed=3),
        default_scope='mmengine',
        experiment_name=f'{work_dir.name}_{len(list(work_dir.parent.iterdir()))}_{resume_from}',
        load_from=resume_from,
        resume=resume_from is not None,
        log_level='ERROR',
    )
    for hook in (SeedIterationsHook(), StopHook()):
        runner.register_hook(hook)
    use_resumable_epochs(runner)
    use_safe_reader()
    use_safe_checkpoints(runner)
    return runner


def train(runner: Runner, watcher: Watcher | None = None, hooks: Sequence[Hook] = ()) -> Watcher:
    watcher = watcher or Watcher()
    for hook in (watcher, *hooks):
        runner.register_hook(hook)
    runner.train()
    return watcher
