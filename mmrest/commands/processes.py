"""Several processes: joining them, the model's wrapper, one that is lost, and leaving."""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmrest.config_nodes import is_multi_resolution
from mmrest.engine.run_checks import saved_last
from mmrest.errors import InputError

# how a launcher tells a process its number among all, how many they are, and its number on the
# machine
_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
_STARTS = {
    'pytorch': 'torchrun --nproc_per_node GPUS',
    'slurm': 'srun --ntasks PROCESSES python',
    'mpi': 'mpirun -np PROCESSES python',
}
# what gloo, NCCL and torch's store say of a process that does not answer any more
_LOST = re.compile(
    r'gloo/transport|connection (closed|reset|refused)|broken pipe|timed out (after|waiting)|'
    r'wait timeout|ncclRemoteError|ncclSystemError|unhandled system error|remote process exited',
    re.IGNORECASE,
)


def is_first_process() -> bool:
    """Whether no launcher says that this is another process than the first of all machines."""
    ranks = (os.environ.get(names[0]) for names in _VARIABLES.values())
    return not any(rank not in (None, '', '0') for rank in ranks)


_given: list[str] = []


def warn(text: str) -> None:
    """Print a warning, once for all processes; the commands that do so have no log yet."""
    _given.append(text)
    if is_first_process():
        print(f'warning: {text}', file=sys.stderr)


class RepeatedWarningsHook(Hook):
    """Logs what was warned of before there was a log, below the config that it begins with."""

    def before_train(self, runner: Runner) -> None:
        """Called by the runner before the first epoch."""
        for text in dict.fromkeys(_given):
            runner.logger.warning(text)
        _given.clear()


def require_launched(launcher: str) -> None:
    """Check that ``--launcher`` is the one that started this process.

    Raises:
        InputError: Its environment variables are missing, or there is no GPU for the process.
    """
    if launcher == 'none':
        return
    rank, size, local_rank = _VARIABLES[launcher]
    needed = [rank, size, *(['SLURM_NODELIST'] if launcher == 'slurm' else [])]
    if missing := [name for name in needed if not os.environ.get(name)]:
        raise InputError(
            f'--launcher {launcher}, but {", ".join(missing)} is not set in the environment: start '
            f'the command with `{_STARTS[launcher]} ...`, or leave --launcher out for one process'
        )
    address = os.environ.get('MASTER_ADDR')
    if launcher == 'slurm' and not address and not shutil.which('scontrol'):
        raise InputError(
            '--launcher slurm asks scontrol for the address of the first machine, and there is '
            'none here (as in a container): export MASTER_ADDR=$(scontrol show hostnames '
            '"$SLURM_NODELIST" | head -n 1) before srun'
        )
    number, gpus = int(os.environ.get(local_rank) or 0), torch.cuda.device_count()
    if 0 < gpus <= number:
        raise InputError(
            f'process {number} of this machine has no GPU of its own: torch sees {gpus}. Start as '
            'many processes as there are GPUs, each of which sees them all (slurm: --gres gpu:N, '
            'not --gpus-per-task)'
        )


def join_on_cpu(launcher: str) -> None:
    """Join the other processes where there is no GPU, as mmengine does with one."""
    if launcher == 'none' or torch.cuda.is_available():
        return
    for name, value in zip(_VARIABLES['pytorch'], _VARIABLES[launcher], strict=True):
        os.environ[name] = os.environ.get(value, '0')
    if launcher != 'pytorch':
        os.environ.setdefault('MASTER_PORT', '29500')
    if launcher == 'slurm' and not os.environ.get('MASTER_ADDR'):
        command = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
        hosts = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        os.environ['MASTER_ADDR'] = hosts.split()[0]
    torch.distributed.init_process_group('gloo')


def choose_model_wrapper(cfg: Config) -> None:
    """Name the wrapper for several processes where mmengine's default does not do.

    On a CPU mmengine would ask for a device; a model that takes its resolutions in turn has a
    wrapper of its own. What the config says itself goes before.
    """
    in_turn = is_multi_resolution(cfg.model) and cfg.model.get('accumulate')
    on_cpu = not torch.cuda.is_available()
    if in_turn or on_cpu:
        cfg.model_wrapper_cfg = {
            'type': 'MultiResolutionDDP' if in_turn else 'MMDistributedDataParallel',
            'broadcast_buffers': False,
            'find_unused_parameters': cfg.get('find_unused_parameters', False),
            **(cfg.get('model_wrapper_cfg') or {}),
            **(dict(device_ids=None) if on_cpu else {}),
        }


@contextmanager
def explain_lost_processes(runner: Runner) -> Iterator[None]:
    """Say that another process has ended or hangs, which this one finds while it waits for it.

    Raises:
        InputError: That is why the run cannot go on; anything else is raised as it was.
    """
    try:
        yield
    except RuntimeError as error:
        if runner.world_size == 1 or not _LOST.search(str(error)):
            raise
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f'process {runner.rank} of {runner.world_size} ends, because another one has ended or '
            f'does not answer ({reason}). Why is in its own messages, above or on its machine; '
            f'without any it was killed, mostly for want of memory. {saved_last(runner.work_dir)}; '
            'a training goes on from there with --resume'
        ) from error


def leave_process_group() -> None:
    """End a run of several processes together; without it one may crash while another works on.

    Nothing may refer to the runner any more: the wrapper of its model keeps gloo's threads alive,
    and threads that outlive the interpreter abort the process now and then.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # the runner, its loops and hooks refer to each other
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
