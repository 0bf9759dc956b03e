"""Work that two processes do together on the CPU."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import spawn

import mmrest  # noqa: F401  (registers, in the new processes)


def run_both(work: Callable[..., Any], arguments: tuple, folder: Path) -> list[Any]:
    """What ``work(rank, *arguments)`` returns in each of two processes: tensors, in containers."""
    spawn(_join, (work, arguments, str(folder)), nprocs=2)
    return [torch.load(folder / f'{rank}.pth', weights_only=True) for rank in range(2)]


def _join(rank: int, work: Callable[..., Any], arguments: tuple, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'file://{folder}/meet', rank=rank, world_size=2)
    torch.save(work(rank, *arguments), f'{folder}/{rank}.pth')
    gc.collect()  # the model's wrapper keeps gloo's threads, which may abort the exit
    dist.barrier()
    dist.destroy_process_group()
