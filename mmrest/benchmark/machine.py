"""The machine that something is measured on: its memory, its speed, its name."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path

import torch
from torch.utils.benchmark import Measurement, Timer

from mmrest.ops import linear
from mmrest.ops.cpu.processor import processor_facts

_NUMBERS = {'family': 'cpu family', 'model': 'model'}


class CudaMemory:
    """Memory of tensors on the current GPU."""

    def reset(self) -> int:
        """Begin anew; returns the bytes in use."""
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def peak(self) -> int:
        """Most bytes in use since ``reset``."""
        return torch.cuda.max_memory_allocated()


class ProcessMemory:
    """Resident memory of this process, as Linux counts it."""

    def reset(self) -> int:
        """Begin anew; returns the bytes in use."""
        with open('/proc/self/clear_refs', 'w') as file:
            file.write('5')  # the peak begins anew
        return self._read('VmRSS')

    def peak(self) -> int:
        """Most bytes in use since ``reset``."""
        return self._read('VmHWM')

    def _read(self, name: str) -> int:
        with open('/proc/self/status') as file:
            line = next(line for line in file if line.startswith(f'{name}:'))
        return int(line.split()[1]) * 1024


def peak_memory(device: str) -> CudaMemory | ProcessMemory:
    """What watches the memory of ``'cpu'`` or ``'cuda'``."""
    return CudaMemory() if device == 'cuda' else ProcessMemory()


def time_call(call: Callable[[], object], threads: int, least_seconds: float = 0.5) -> Measurement:
    """Time a call by torch's own timer, which waits for a GPU.

    Args:
        call: What is timed.
        threads: Processor threads; 0 leaves torch's choice.
        least_seconds: How long it is repeated.
    """
    call()  # compiles, allocates
    threads = threads or torch.get_num_threads()
    timer = Timer('call()', globals=dict(call=call), num_threads=threads)
    return timer.blocked_autorange(min_run_time=least_seconds)


def measure_peak(device: str, dtype: str, threads: int, side: int = 2048) -> float:
    """Most arithmetic that matrix products reach here, in operations a second.

    Products of ``side`` cubed, by torch's ``@`` and, where this package takes products by oneDNN,
    by that.
    """
    a, b = (torch.randn(side, side, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    with torch.inference_mode():
        products = (lambda: a @ b, lambda: linear(a, b, None))
        return 2 * side**3 / min(min(time_call(product, threads).times) for product in products)


def measure_bandwidth(device: str, threads: int, megabytes: int = 256) -> float:
    """Bytes a second that a copy of a large tensor reads and writes."""
    source = torch.zeros(megabytes * 2**18, device=device)
    target = torch.empty_like(source).fill_(0)
    return 2 * source.nbytes / min(time_call(lambda: target.copy_(source), threads).times)


def describe_machine(device: str, threads: int) -> dict[str, str]:
    """What a table of measurements has to say about where and when."""
    return {
        'date': date.today().isoformat(),
        'commit': find_commit(),
        'device': torch.cuda.get_device_name() if device == 'cuda' else processor_name(),
        'cores': str(os.cpu_count()),
        'threads': str(threads or torch.get_num_threads()),
        'torch': torch.__version__,
        'python': platform.python_version(),
    }


def write_measurements(
    path: str, columns: Sequence[str], rows: Iterable[Sequence[str]], facts: Mapping[str, str]
) -> None:
    """A CSV file of a table.

    Args:
        path: Of the file.
        columns: Names of the table's.
        rows: Of the table.
        facts: About where and when it was measured: a further column each.
    """
    with open(path, 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow([*columns, *facts])
        writer.writerows([*row, *facts.values()] for row in rows)


def find_commit() -> str:
    """The commit of this package's checkout, with ``+`` where files differ; of a wheel, none."""
    git = ['git', '-C', str(Path(__file__).parents[2])]
    try:
        found = [
            subprocess.run([*git, *command], capture_output=True, text=True, check=True).stdout
            for command in (['rev-parse', '--short=10', 'HEAD'], ['status', '--short', 'mmrest'])
        ]
    except (OSError, subprocess.CalledProcessError):
        return ''
    return found[0].strip() + ('+' if found[1] else '')


def processor_name() -> str:
    """Architecture and, where Linux tells them, name, family and model.

    A virtual machine's name may leave out what the two numbers tell.
    """
    facts = processor_facts()
    name = f'{platform.machine()} {facts.get("model name", "")}'.strip()
    numbers = [f'{word} {facts[key]}' for word, key in _NUMBERS.items() if key in facts]
    return f'{name} ({" ".join(numbers)})' if numbers else name
