"""Trainings that are told to end, and go on: nothing is done twice, left out or drawn anew."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import DataLoader

from mmrest.engine.checkpointing import INTERRUPTED, newest_whole_checkpoint
from mmrest.engine.interruption import StopHook, _OutlivesSignals, _rest_of_epoch
from mmrest.engine.run_checks import FiniteLossHook
from mmrest.errors import Interrupted
from tests.engine.toy_training import NoisyLine, Watcher, make_runner, train


def ask(number: int = signal.SIGTERM):
    # in this thread, so that Python notices it at once
    return lambda: signal.raise_signal(number)


@pytest.fixture(params=[True, False], ids=['epochs', 'iterations'])
def by_epoch(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.mark.parametrize(
    ('by_epoch', 'last', 'workers'),
    [(loop, last, 0) for loop in (True, False) for last in (1, 4, 5, 7, 14)] + [(True, 5, 2)],
)
def test_a_training_that_is_ended_goes_on_as_if_it_had_not_been(
    by_epoch: bool, last: int, workers: int, tmp_path: Path
) -> None:
    # (workers draw as before only where they start with an epoch)
    expected = train(make_runner(tmp_path / 'whole', by_epoch, workers)).losses
    assert len(set(expected.values())) == 15

    first = Watcher(last, ask())
    with pytest.raises(Interrupted, match=f'SIGTERM in iteration {last}; saved'):
        train(make_runner(tmp_path / 'ended', by_epoch, workers), first)
    assert max(first.losses) == last - 1
    path, _ = newest_whole_checkpoint(str(tmp_path / 'ended'), {})
    assert Path(path).name == INTERRUPTED
    rest = train(make_runner(tmp_path / 'ended', by_epoch, workers, path)).losses
    assert min(rest) == last
    assert {**first.losses, **rest} == expected
    assert not (tmp_path / 'ended' / INTERRUPTED).exists()


def test_a_training_killed_at_a_checkpoint_goes_on_with_equal_losses(
    by_epoch: bool, tmp_path: Path
) -> None:
    class Kill(Exception):
        pass

    def kill() -> None:
        raise Kill

    expected = train(make_runner(tmp_path / 'whole', by_epoch)).losses
    first = Watcher(12, kill)
    with pytest.raises(Kill):
        train(make_runner(tmp_path / 'killed', by_epoch), first)
    path, _ = newest_whole_checkpoint(str(tmp_path / 'killed'), {})
    rest = train(make_runner(tmp_path / 'killed', by_epoch, resume_from=path)).losses
    assert min(rest) == (10 if by_epoch else 9)
    assert {**first.losses, **rest} == {**first.losses, **expected}
    assert all(expected[step] == loss for step, loss in first.losses.items())


def test_batches_that_a_resumed_loop_takes_once_more_change_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(batches: _InfiniteDataloaderIterator, count: int) -> None:
        # as the original mmengine, and the maintained one where a loader cannot skip
        for _ in range(count):
            next(batches)

    monkeypatch.setattr(_InfiniteDataloaderIterator, 'skip_iter', take, raising=False)
    expected = train(make_runner(tmp_path / 'whole', False)).losses
    with pytest.raises(Interrupted):
        train(make_runner(tmp_path / 'ended', False), Watcher(7, ask()))
    path = str(tmp_path / 'ended' / INTERRUPTED)
    rest = train(make_runner(tmp_path / 'ended', False, resume_from=path)).losses
    assert rest == {step: loss for step, loss in expected.items() if step >= 7}


def test_a_checkpoint_within_an_epoch_says_how_far_it_is(tmp_path: Path) -> None:
    options = dict(by_epoch=False, interval=3)
    expected = train(make_runner(tmp_path / 'run', True, **options)).losses
    for step in (3, 9, 15):  # the last is the end of an epoch
        path = str(tmp_path / 'run' / f'iter_{step}.pth')
        rest = train(make_runner(tmp_path / f'from_{step}', True, resume_from=path)).losses
        assert rest == {k: v for k, v in expected.items() if k >= step}


def test_weights_of_an_ended_training_start_another_at_its_first_batch(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(make_runner(tmp_path / 'ended', True), Watcher(7, ask()))
    runner = make_runner(tmp_path / 'new', True)
    runner._load_from = str(tmp_path / 'ended' / INTERRUPTED)
    assert sorted(train(runner).losses) == list(range(15))


def test_ctrl_c_in_a_validation_saves_the_trained_weights(tmp_path: Path) -> None:
    class InValidation(Watcher):
        def after_val_iter(self, runner, *args, **kwargs) -> None:
            self.trained = float(runner.model.line.weight)
            signal.raise_signal(signal.SIGINT)

    watcher = InValidation()
    runner = make_runner(tmp_path / 'run', True, interval=3)
    with pytest.raises(Interrupted, match='SIGINT in the validation after iteration 5'):
        train(runner, watcher)
    saved = torch.load(tmp_path / 'run' / INTERRUPTED, weights_only=False)
    assert saved['meta']['epoch'] == 1
    assert saved['meta']['iter'] == 5
    assert float(saved['state_dict']['line.weight']) == watcher.trained


def test_a_second_signal_is_not_held_back(tmp_path: Path) -> None:
    def ask_twice() -> None:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(make_runner(tmp_path / 'run', True), Watcher(2, ask_twice))


def test_signals_are_as_before_after_a_training(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    train(make_runner(tmp_path / 'run', False))
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_epoch_of_another_length_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Interrupted):
        train(make_runner(tmp_path / 'run', True), Watcher(7, ask()))
    runner = make_runner(tmp_path / 'run', True, resume_from=str(tmp_path / 'run' / INTERRUPTED))
    runner._train_dataloader['batch_size'] = 5
    with caplog.at_level('WARNING'):
        losses = train(runner).losses
    assert len(losses) == 4  # two epochs of two batches


@pytest.mark.parametrize('go_on', [True, False])
def test_a_loss_that_is_no_number_ends_the_training_or_leaves_the_step_out(
    go_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []

    def forward(self, inputs, data_samples, mode='tensor'):
        steps.append(float(self.line.weight))
        losses = normal(self, inputs, data_samples, mode)
        if mode == 'loss' and len(steps) == 3:
            losses['loss'] = losses['loss'] * float('nan')
        return losses

    normal = NoisyLine.forward
    monkeypatch.setattr(NoisyLine, 'forward', forward)
    runner = make_runner(tmp_path / 'run', False)
    hook = FiniteLossHook(go_on)
    if not go_on:
        with pytest.raises(ValueError, match=r'iteration 3 .*--skip-non-finite'):
            train(runner, hooks=[hook])
        return
    train(runner, hooks=[hook])
    assert hook.left_out == 1
    assert steps[2] == steps[3] != steps[1]


def test_a_step_is_left_out_whichever_of_its_losses_is_no_number() -> None:
    weight = torch.nn.Parameter(torch.ones(()))
    wrapper = OptimWrapper(torch.optim.SGD([weight], 0.5))
    hook = FiniteLossHook(go_on=True)
    hook.before_train(SimpleNamespace(optim_wrapper=wrapper))
    wrapper.backward(weight * float('nan'))  # the first resolution of two
    wrapper.update_params(weight * 1.0)
    assert weight.item() == 1
    wrapper.backward(weight * 1.0)
    wrapper.update_params(weight * 1.0)
    assert weight.item() == 0


def test_a_training_in_a_thread_leaves_signals_alone(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    hook = StopHook()
    thread = threading.Thread(target=hook.before_train, args=(None,))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    assert hook._before == {}


def test_a_worker_of_a_data_loader_waits_for_its_parents_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = []
    monkeypatch.setattr(signal, 'alarm', seconds.append)
    hook = StopHook()
    hook._process = os.getppid()  # a fork has its parent's hook
    hook._ask(signal.SIGTERM, None)
    assert seconds == [60]
    assert hook._signal is None


def test_workers_outlive_the_signals_that_end_all_processes(tmp_path: Path) -> None:
    runner = make_runner(tmp_path / 'run', True, workers=2)
    seen = []

    def end_all() -> None:
        workers = multiprocessing.active_children()
        seen.extend(workers)
        # of another process than the workers' parent
        kills = [f'kill -{name} {worker.pid}' for worker in workers for name in ('TERM', 'INT')]
        subprocess.run(['sh', '-c', '; '.join(kills)], check=True)

    with pytest.raises(Interrupted, match='SIGTERM in iteration 4; saved'):
        train(runner, hooks=[Watcher(2, end_all), Watcher(4, ask())])
    assert len(seen) >= 2


def test_workers_end_at_once_when_their_parent_says() -> None:
    loader = DataLoader(
        range(4), num_workers=2, persistent_workers=True, worker_init_fn=_OutlivesSignals(None)
    )
    assert len(list(loader)) == 4
    for worker in loader._iterator._workers:
        worker.terminate()
        worker.join(10)
        assert worker.exitcode == 0


def test_a_signal_in_a_validation_of_averaged_weights_saves_both(
    tmp_path: Path,
) -> None:
    class Stop(Hook):
        def after_val_iter(self, runner: Runner, *_: object, **__: object) -> None:
            self.trained = runner.ema_hook.ema_model.module.line.weight.item()
            self.averaged = runner.model.line.weight.item()
            signal.raise_signal(signal.SIGTERM)

    stop, runner = Stop(), make_runner(tmp_path / 'run', True)
    runner.ema_hook = EMAHook(momentum=0.5)
    with pytest.raises(Interrupted, match='in the validation after iteration 5'):
        train(runner, hooks=[runner.ema_hook, stop])
    saved = torch.load(tmp_path / 'run' / INTERRUPTED, weights_only=False)
    assert stop.trained != stop.averaged
    # mmengine puts the averaged ones where who deploys the model looks, and changes them back when
    # a training goes on
    assert saved['state_dict']['line.weight'].item() == stop.averaged
    assert saved['ema_state_dict']['module.line.weight'].item() == stop.trained


def test_the_rest_of_an_epoch_is_as_long_as_what_is_left() -> None:
    loader = DataLoader(list(range(10)), batch_size=3)
    rest = _rest_of_epoch(loader, 1)
    assert len(rest) == 3
    assert [batch.tolist() for batch in rest] == [[3, 4, 5], [6, 7, 8], [9]]
