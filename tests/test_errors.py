from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from mmrest.errors import (
    ArgumentParser,
    InputError,
    Interrupted,
    clear_errors,
    did_you_mean,
    is_out_of_memory,
)
from tests.conftest import ROOT


def test_names_that_are_spelled_alike() -> None:
    assert did_you_mean('rset', {'rest', 'pvt'}) == '; did you mean rest?'
    assert did_you_mean('rest', ['rest1', 'rest2', 'x'], most=2) == '; did you mean rest2 or rest1?'
    assert did_you_mean('Adamw', ['Adam', 'AdamW', 'RAdam'], most=2) == '; did you mean AdamW?'
    assert did_you_mean('yolo', ['rest', 'pvt']) == ''


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        ('--work-dri', '--work-dri; did you mean --work-dir?'),
        ('--yolo', 'arguments: --yolo\n'),
        ('extra', 'arguments: extra\n'),
    ],
)
def test_a_misspelt_option_is_named(
    given: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = ArgumentParser()
    parser.add_argument('--work-dir')
    with pytest.raises(SystemExit, match='2'):
        parser.parse_args([given])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ('error', 'status', 'said'),
    [
        (InputError('what to do'), 'error: what to do', ''),
        (Interrupted('saved', signal.SIGTERM), 143, 'saved\n'),
        (KeyboardInterrupt(), 130, 'ended by SIGINT\n'),
    ],
)
def test_what_a_user_can_mend_is_no_traceback(
    error: BaseException, status: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught, clear_errors():
        raise error
    assert caught.value.code == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize('error', [OSError(5, 'Input/output error'), ValueError('a fault of ours')])
def test_other_errors_are_as_they_were(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, clear_errors():
        raise error
    assert caught.value is error


def test_a_misspelt_option_that_is_required_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser()
    parser.add_argument('--out-dir', required=True)
    with pytest.raises(SystemExit, match='2'):
        parser.parse_args(['--outdir', 'x'])
    assert 'required: --out-dir; --outdir is none of them; did you mean --out-dir?' in (
        capsys.readouterr().err
    )
    with pytest.raises(SystemExit, match='2'):
        parser.parse_args([])
    assert capsys.readouterr().err.endswith('required: --out-dir\n')


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='a device of Linux')
def test_output_that_cannot_be_written_is_one_message() -> None:
    with open('/dev/full', 'w') as full:
        result = subprocess.run(
            [sys.executable, str(ROOT / 'mmrest/__main__.py'), 'list', 'ResT'],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1:] == [
        'error: the output cannot be written: No space left on device'
    ]
    assert 'Traceback' not in result.stderr


@pytest.mark.parametrize('command', [['doctor'], ['list', 'ResT']])
def test_output_that_nobody_reads_ends_a_command_quietly(command: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, str(ROOT / 'mmrest/__main__.py'), *command],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    assert 'BrokenPipe' not in result.stderr


def test_what_memory_errors_say() -> None:
    for error in (
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB'),
    ):
        assert is_out_of_memory(error)
    # after which nothing on a GPU goes on
    assert not is_out_of_memory(
        RuntimeError('CUDA error: an illegal memory access was encountered')
    )
