"""The machine that something is measured on."""

from __future__ import annotations

import platform

import torch


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


def processor_name() -> str:
    """Architecture and, where Linux tells it, the model."""
    try:
        with open('/proc/cpuinfo') as file:
            name = next(line.split(':')[1].strip() for line in file if 'model name' in line)
    except (OSError, StopIteration):
        name = ''
    return f'{platform.machine()} {name}'.strip()
