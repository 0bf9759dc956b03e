from __future__ import annotations

import argparse
import errno
import shlex
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner import Runner
from torch import nn

from mmrest.commands import cli, load_config
from mmrest.commands.cli import (
    add_config_arguments,
    options_given,
    require_accelerator_for_amp,
    require_files,
    run_training,
    use_amp,
)
from mmrest.engine.checkpointing import AtomicBackend, write_whole_files
from mmrest.errors import InputError, Interrupted
from tests.checkpoints.test_whole_models import Toy
from tests.conftest import ROOT
from tests.engine.test_run_checks import trainer


@pytest.mark.parametrize('device', ['cuda', 'npu', 'mlu', 'musa', 'mps'])
def test_mixed_precision_is_for_every_accelerator(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = Config(dict(optim_wrapper=dict(type='AmpOptimWrapper')))
    monkeypatch.setattr(cli, 'get_device', lambda: device)
    require_accelerator_for_amp(cfg)
    monkeypatch.setattr(cli, 'get_device', lambda: 'cpu')
    with pytest.raises(InputError, match=r'needs a GPU.*optim_wrapper\.type=OptimWrapper'):
        require_accelerator_for_amp(cfg)


@pytest.mark.parametrize(
    ('number', 'said'),
    [
        (errno.ENOSPC, 'is full'),
        (errno.EDQUOT, 'is full'),
        (errno.EFBIG, 'takes no file so large'),
    ],
)
def test_a_full_disk_is_named(
    number: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = AtomicBackend.put

    def fill(self: AtomicBackend, obj: bytes, filepath: str) -> None:
        if str(filepath).endswith('epoch_2.pth'):
            raise OSError(number, 'No space', str(filepath))
        put(self, obj, filepath)

    monkeypatch.setattr(AtomicBackend, 'put', fill)
    write_whole_files()
    with pytest.raises(InputError, match=rf'{said}: .*saved last: .*epoch_1\.pth.*--resume'):
        run_training(trainer(Toy(), tmp_path))


def test_a_training_that_is_ended_at_once_says_what_was_saved(tmp_path: Path) -> None:
    class TwoSignals(Hook):
        def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
            if runner.epoch == 2:
                raise KeyboardInterrupt

    runner = trainer(Toy(), tmp_path)
    runner.register_hook(TwoSignals())
    with pytest.raises(Interrupted, match=r'at once; saved last: .*epoch_2\.pth') as caught:
        run_training(runner)
    assert caught.value.signal == 2


def test_a_config_of_mixed_precision_trains_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the message says; the recipe is the same in all else."""
    monkeypatch.setattr(cli, 'get_device', lambda: 'cpu')
    path = str(ROOT / 'configs/mask_rcnn_restv2_tiny_coco.py')
    with pytest.raises(InputError, match='needs a GPU'):
        require_accelerator_for_amp(load_config(path))
    cfg = load_config(path, {'optim_wrapper.type': 'OptimWrapper'})
    require_accelerator_for_amp(cfg)
    assert type(build_optim_wrapper(nn.Linear(2, 2), cfg.optim_wrapper)) is OptimWrapper
    use_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    return parser.parse_args(arguments)


def test_options_are_shown_as_they_were_given() -> None:
    given = ['a.b=[1,2]', 'c=(3,4)', 'd=x', 'a.b=[1,3]']
    args = parsed('--data-root', 'my data', '--cfg-options', *given)
    assert args.cfg_options == {'a.b': [1, 3], 'c': (3, 4), 'd': 'x'}
    assert parsed(*shlex.split(options_given(args))) == args
    assert options_given(parsed()) == ''


def test_options_that_a_test_does_not_read_are_not_shown_for_it() -> None:
    of_training = ['train_cfg.max_epochs=1', 'optim_wrapper.optimizer.lr=1', 'val_cfg.x=1']
    args = parsed('--cfg-options', *of_training, 'model.x=1', 'test_cfg.x=1')
    assert options_given(args) == ' --cfg-options model.x=1 test_cfg.x=1'
    assert options_given(parsed('--cfg-options', *of_training)) == ''


@pytest.mark.parametrize('option', ["hooks=[dict(type='EMAHook',momentum=0.1)]", 'a=[(1,2]'])
def test_an_option_that_cannot_be_read_is_named(option: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match='2'):
        parsed('--cfg-options', option)
    assert f'--cfg-options {option}: lists are written [1,2]' in capsys.readouterr().err


@pytest.mark.parametrize('given', ['.', 'last_checkpoint', 'epoch_2.pth', 'other/epoch_2.pth'])
def test_a_work_directory_in_the_place_of_a_checkpoint_names_its_last(
    given: str, tmp_path: Path
) -> None:
    (tmp_path / 'epoch_1.pth').write_bytes(b'whole')
    # as mmengine's hook writes it; the folder may have been moved since
    (tmp_path / 'last_checkpoint').write_text('/where/it/was/epoch_1.pth')
    with pytest.raises(InputError) as error:
        require_files(Config(), str(tmp_path / given))
    last = f'; the last one there is {tmp_path}/epoch_1.pth'
    assert str(error.value).endswith(last) == (not given.startswith('other'))
    require_files(Config(), str(tmp_path / 'epoch_1.pth'))
