"""Several processes: how they are started, joined and left, and what is said if one dies."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from mmrest.checkpoints import read_checkpoint
from mmrest.commands import processes
from mmrest.commands.processes import (
    choose_model_wrapper,
    explain_lost_processes,
    is_first_process,
    require_launched,
    warn,
)
from mmrest.errors import InputError
from tests import forked
from tests.conftest import ROOT
from tests.two_processes import free_port

DETECTOR = ROOT / 'configs/retinanet_rest_lite_shapes.py'
LAUNCHED = {
    'pytorch': dict(RANK='1', WORLD_SIZE='2', LOCAL_RANK='1'),
    'slurm': dict(
        SLURM_PROCID='1', SLURM_NTASKS='2', SLURM_LOCALID='1', SLURM_NODELIST='n1', MASTER_ADDR='n1'
    ),
    'mpi': dict(OMPI_COMM_WORLD_RANK='1', OMPI_COMM_WORLD_SIZE='2', OMPI_COMM_WORLD_LOCAL_RANK='1'),
}
launchers = pytest.mark.parametrize('launcher', LAUNCHED)


@pytest.fixture(autouse=True)
def _not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for variables in LAUNCHED.values():
        for name in variables:
            monkeypatch.delenv(name, raising=False)


def chosen(monkeypatch: pytest.MonkeyPatch, gpu: bool, **config: object) -> dict | None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    cfg = Config(dict(config))
    choose_model_wrapper(cfg)
    return cfg.get('model_wrapper_cfg')


def test_the_wrapper_for_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = dict(type='RetinaNet')
    in_turn = dict(type='mmrest.MultiResolution', model=plain, accumulate=True)
    assert chosen(monkeypatch, True, model=plain) is None
    assert chosen(monkeypatch, True, model=dict(in_turn, accumulate=False)) is None
    wrapper = chosen(monkeypatch, True, model=in_turn)
    assert wrapper['type'] == 'MultiResolutionDDP'
    assert 'device_ids' not in wrapper
    wrapper = chosen(monkeypatch, False, model=plain, find_unused_parameters=True)
    assert wrapper['type'] == 'MMDistributedDataParallel'
    assert wrapper['device_ids'] is None
    assert wrapper['find_unused_parameters']
    own = dict(type='MMFullyShardedDataParallel')
    assert chosen(monkeypatch, True, model=in_turn, model_wrapper_cfg=own)['type'] == own['type']


@launchers
def test_a_launcher_that_did_not_start_the_process_is_named(
    launcher: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(InputError, match=rf'--launcher {launcher}, but .*start the command with'):
        require_launched(launcher)
    assert is_first_process()
    warn('of the first')
    for name, value in LAUNCHED[launcher].items():
        monkeypatch.setenv(name, value)
    require_launched(launcher)
    assert not is_first_process()
    warn('of another')
    assert capsys.readouterr().err == 'warning: of the first\n'
    require_launched('none')


@launchers
@pytest.mark.parametrize(('gpus', 'enough'), [(0, True), (1, False), (2, True)])
def test_a_process_without_a_gpu_of_its_own_is_named(
    launcher: str, gpus: int, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
    for name, value in LAUNCHED[launcher].items():
        monkeypatch.setenv(name, value)
    if enough:
        require_launched(launcher)
    else:
        with pytest.raises(InputError, match=r'process 1 of this machine has no GPU .* sees 1'):
            require_launched(launcher)


def test_slurm_without_scontrol_wants_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCHED['slurm'].items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv('MASTER_ADDR')
    monkeypatch.setenv('PATH', '')
    with pytest.raises(InputError, match='export MASTER_ADDR='):
        require_launched('slurm')


@pytest.mark.parametrize(
    ('text', 'lost'),
    [
        ('[gloo/transport/tcp/pair.cc:537] Read error [::1]:1: Connection reset by peer', True),
        ('NCCL error: remote process exited or there was a network error', True),
        ('wait timeout after 600000ms, keys: /default_pg/0//cpu//0/1', True),
        ('Timed out after 61 seconds waiting for clients. 1/2 clients joined.', True),
        ('CUDA out of memory', False),
        ('mat1 and mat2 shapes cannot be multiplied', False),
    ],
)
def test_errors_of_waiting_alone_are_of_a_lost_process(
    text: str, lost: bool, tmp_path: Path
) -> None:
    runner = SimpleNamespace(world_size=2, rank=1, work_dir=str(tmp_path))
    expected = InputError if lost else RuntimeError
    with pytest.raises(expected) as caught, explain_lost_processes(runner):
        raise RuntimeError(text)
    assert isinstance(caught.value, InputError) == lost
    runner.world_size = 1
    with pytest.raises(RuntimeError), explain_lost_processes(runner):
        raise RuntimeError(text)


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """What srun tells the tasks of a job on this machine, and an ``scontrol`` that knows it."""
    (tmp_path / 'bin').mkdir()
    scontrol = tmp_path / 'bin/scontrol'
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames n[1-2]" ] && echo 127.0.0.1\n')
    scontrol.chmod(0o755)
    return dict(
        PATH=f'{scontrol.parent}:{os.environ["PATH"]}',
        SLURM_NTASKS='2',
        SLURM_NODELIST='n[1-2]',
        MASTER_PORT=free_port(),
        CUDA_VISIBLE_DEVICES='',
        OMP_NUM_THREADS='1',
    )


def train_by_slurm(
    variables: dict[str, str], config: Path, data: Path, work_dir: Path
) -> list[subprocess.CompletedProcess]:
    """Both tasks of a job that trains a detector for three iterations."""
    command = [str(ROOT / 'tools/train.py'), str(config), '--launcher', 'slurm']
    command += ['--data-root', str(data), '--work-dir', str(work_dir), '--cfg-options']
    command += ['built_in_data.num_train=12', 'built_in_data.num_val=4']
    command += ['train_dataloader.batch_size=2', 'train_cfg.max_epochs=1']
    command += ['train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2']
    command += ['default_hooks.checkpoint.by_epoch=False']

    def run(rank: int) -> subprocess.CompletedProcess:
        task = {**os.environ, **variables, 'SLURM_PROCID': str(rank), 'SLURM_LOCALID': str(rank)}
        return forked.run_script(command, ROOT, task, timeout=240)

    with ThreadPoolExecutor(2) as both:
        return list(both.map(run, range(2)))


@pytest.mark.slow
def test_slurm_trains_on_the_cpu(slurm: dict[str, str], shapes_root: Path, tmp_path: Path) -> None:
    results = train_by_slurm(slurm, DETECTOR, shapes_root, tmp_path / 'work')
    assert [result.returncode for result in results] == [0, 0], results[0].stderr[-3000:]
    history = read_checkpoint(tmp_path / 'work/iter_3.pth')['message_hub']['log_scalars']
    assert len(history['train/loss'].data[0]) == 3  # 12 images, 2 a batch, 2 processes


def test_a_killed_process_ends_the_others_with_the_reason(
    slurm: dict[str, str], shapes_root: Path, tmp_path: Path
) -> None:
    config = tmp_path / 'dies.py'
    config.write_text(
        f"_base_ = ['{DETECTOR}']\n"
        "custom_imports = dict(imports=['mmrest', 'tests.commands.second_dies'])\n"
        "custom_hooks = [dict(type='mmengine.SecondDies')]\n"
    )
    start = time.monotonic()
    first, second = train_by_slurm(slurm, config, shapes_root, tmp_path / 'work')
    assert second.returncode == -signal.SIGKILL
    assert first.returncode == 1
    assert time.monotonic() - start < 120
    *_, line = first.stderr.strip().splitlines()
    assert line.startswith('error: process 0 of 2 ends, because another one has ended')
    assert f'saved last: {tmp_path / "work/iter_"}' in line
    assert 'Traceback' not in first.stderr


def test_warnings_come_again_when_the_training_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, '_given', [])
    for text in ('one', 'two', 'one'):
        processes.warn(text)
    logged: list[str] = []
    runner = SimpleNamespace(logger=SimpleNamespace(warning=logged.append))
    for _ in range(2):  # trainings of one process
        processes.RepeatedWarningsHook().before_train(runner)
    assert logged == ['one', 'two']
