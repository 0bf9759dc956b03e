from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mmrest.errors import ArgumentParser, did_you_mean
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
