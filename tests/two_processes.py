"""Work that two processes do together on the CPU."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

import mmrest  # noqa: F401  (registers, in the new processes)
from tests import forked  # noqa: F401  (what the new processes begin with)


def run_both(work: Callable[..., Any], arguments: tuple, folder: Path) -> list[Any]:
    """What ``work(rank, *arguments)`` returns in each of two processes: tensors, in containers."""
    of_each = (work, arguments, str(folder))
    start_processes(_join, of_each, nprocs=2, start_method='forkserver')
    return [torch.load(folder / f'{rank}.pth', weights_only=True) for rank in range(2)]


def free_port() -> str:
    """On which processes of this machine may meet."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        return str(free.getsockname()[1])


def _join(rank: int, work: Callable[..., Any], arguments: tuple, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'file://{folder}/meet', rank=rank, world_size=2)
    torch.save(work(rank, *arguments), f'{folder}/{rank}.pth')
    gc.collect()  # the model's wrapper keeps gloo's threads, which may abort the exit
    dist.barrier()
    dist.destroy_process_group()
