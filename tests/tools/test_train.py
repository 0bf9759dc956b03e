"""What ``python -m mmrest train`` says at its end; trainings are in ``test_commands``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmrest.tools.train import _find_checkpoint, _resuming, parse_args

TRAIN = 'python -m mmrest train'


@pytest.mark.parametrize(
    ('program', 'given', 'shown'),
    [
        (TRAIN, ['mine.py'], f'\nnext: {TRAIN} mine.py --resume'),
        (
            TRAIN,
            ['a b.py', '--cfg-options', 'x=[1,2]'],
            f"\nnext: {TRAIN} 'a b.py' --cfg-options 'x=[1,2]' --resume",
        ),
        ('tools/train.py', ['x.py', '--resume'], '\nnext: python tools/train.py x.py --resume'),
        # which it would begin with again
        (TRAIN, ['mine.py', '--resume', 'epoch_1.pth'], ''),
        # of which only the launcher's own command starts all processes
        (TRAIN, ['mine.py', '--launcher', 'pytorch'], ''),
    ],
)
def test_the_command_that_goes_on(
    program: str, given: list[str], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'argv', [program, *given])
    assert _resuming(parse_args()) == shown
    if shown:  # and it can be parsed
        monkeypatch.setattr(sys, 'argv', [program, *given, '--resume'])
        assert parse_args().resume == 'auto'


def test_a_checkpoint_of_another_folder_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, own = tmp_path / 'epoch_1.pth', tmp_path / 'own'
    own.mkdir()
    torch.save({}, other)
    (own / 'last_checkpoint').write_text(str(other))
    assert _find_checkpoint(Config(dict(work_dir=str(own)))) == str(other)
    assert f'--resume goes on from {other}, which is not in {own}' in capsys.readouterr().err
