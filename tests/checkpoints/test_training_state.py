"""A training goes on from what one saves; anything else is named before the first step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmrest.checkpoints import (
    CheckpointError,
    require_optimizer_state,
    require_training_state,
)
from mmrest.commands.cli import run_training
from mmrest.engine.run_checks import watch_run
from mmrest.errors import InputError
from tests.checkpoints.test_whole_models import Toy
from tests.engine.toy_training import NoisyLine, make_runner, train

Change = Callable[[dict[str, Any]], Any]


def test_states_of_several_optimizers_are_left_to_mmengine() -> None:
    optimizer = torch.optim.SGD(Toy().parameters(), 0.1)
    one = optimizer.state_dict()
    require_optimizer_state(dict(optimizer=one), optimizer, 'a.pth')
    require_optimizer_state(dict(optimizer=dict(first=one, second=one)), optimizer, 'a.pth')
    require_optimizer_state(dict(), optimizer, 'a.pth')
    one['param_groups'][0]['params'].pop()
    with pytest.raises(CheckpointError, match='it trained 4 parameters in 1 groups'):
        require_optimizer_state(dict(optimizer=one), optimizer, 'a.pth')


@pytest.mark.parametrize(
    ('kind', 'options', 'name'),
    [
        (torch.optim.SGD, dict(momentum=0.9), 'momentum_buffer'),
        (torch.optim.AdamW, dict(amsgrad=True), 'exp_avg'),
        (torch.optim.AdamW, dict(amsgrad=True), 'max_exp_avg_sq'),
        (torch.optim.Adamax, {}, 'exp_inf'),
        (torch.optim.RMSprop, dict(centered=True), 'grad_avg'),
        (torch.optim.Adadelta, {}, 'acc_delta'),
        (torch.optim.Adagrad, {}, 'sum'),
        (torch.optim.ASGD, {}, 'ax'),
        (torch.optim.NAdam, {}, 'exp_avg'),
        (torch.optim.Rprop, {}, 'step_size'),
        (torch.optim.SGD, {}, 'momentum_buffer'),
    ],
)
def test_an_optimizers_state_has_the_shapes_of_the_parameters(
    kind: type, options: dict, name: str
) -> None:
    model = nn.Linear(3, 4)
    optimizer = kind(model.parameters(), lr=0.1, **options)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = dict(optimizer=optimizer.state_dict())
    require_optimizer_state(saved, optimizer, 'a.pth')
    saved['optimizer']['state'].setdefault(0, {})[name] = torch.zeros(3)
    with pytest.raises(CheckpointError, match=rf'{name} of parameter 0 .* \(3,\), .* \(4, 3\)'):
        require_optimizer_state(saved, optimizer, 'a.pth')


def optimizer_after_a_step(kind: type, **options: Any) -> torch.optim.Optimizer:
    model = nn.Linear(3, 4)
    optimizer = kind(model.parameters(), **options)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer


# of AdamW, where the comment names none
ODD_OPTIMIZERS: dict[str, Change] = {
    'seven steps': lambda saved: saved['state'][0].update(step=torch.zeros(7)),
    'no step': lambda saved: saved['state'][0].pop('step'),
    'step None': lambda saved: saved['state'][0].update(step=None),
    'step of text': lambda saved: saved['state'][1].update(step='x'),
    'no average': lambda saved: saved['state'][1].pop('exp_avg'),
    'average None': lambda saved: saved['state'][0].update(exp_avg=None),
    'sparse average': lambda saved: saved['state'][0].update(exp_avg=torch.zeros(4, 3).to_sparse()),
    'average without data': lambda saved: saved['state'][0].update(
        exp_avg=torch.zeros(4, 3, device='meta')
    ),
    'state of a number': lambda saved: saved.update(state=5),
    'state of a list': lambda saved: saved.update(state=[1]),
    'state of a parameter a list': lambda saved: saved['state'].update({0: [1]}),
    'a number for its names': lambda saved: saved['state'].update({0: {5: 1}}),
    'groups a number': lambda saved: saved.update(param_groups=5),
    'groups of numbers': lambda saved: saved.update(param_groups=[5]),
    'no params': lambda saved: saved['param_groups'][0].pop('params'),
    'params of text': lambda saved: saved['param_groups'][0].update(params=['a', 'b']),
    'params of lists': lambda saved: saved['param_groups'][0].update(params=[[], []]),
    'rate of text': lambda saved: saved['param_groups'][0].update(lr='x'),
    'no rate': lambda saved: saved['param_groups'][0].pop('lr'),
    'betas a number': lambda saved: saved['param_groups'][0].update(betas=5),
    'decay None': lambda saved: saved['param_groups'][0].update(weight_decay=None),
}


@pytest.mark.parametrize('name', ODD_OPTIMIZERS)
def test_an_optimizer_goes_on_only_from_what_it_can_step_with(name: str) -> None:
    optimizer = optimizer_after_a_step(torch.optim.AdamW, lr=0.1)
    saved = copy.deepcopy(optimizer.state_dict())
    require_optimizer_state(dict(optimizer=saved), optimizer, 'a.pth')
    ODD_OPTIMIZERS[name](saved)
    with pytest.raises(CheckpointError, match=r'a\.pth cannot be resumed: '):
        require_optimizer_state(dict(optimizer=saved), optimizer, 'a.pth')


@pytest.mark.parametrize(
    'kind', ['SGD', 'AdamW', 'Adafactor', 'LBFGS', 'NAdam', 'RAdam', 'Rprop', 'ASGD']
)
def test_looking_at_a_state_changes_nothing(kind: str) -> None:
    model = nn.Linear(3, 4)
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1)
    optimizer.step(lambda: model(torch.ones(1, 3)).sum().backward() or 1.0)
    saved = dict(optimizer=optimizer.state_dict())
    before = copy.deepcopy((saved, model.state_dict()))
    random = torch.get_rng_state()
    require_optimizer_state(saved, optimizer, 'a.pth')
    torch.testing.assert_close((saved, model.state_dict()), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)


def test_options_that_an_older_torch_did_not_save_are_not_missed() -> None:
    optimizer = optimizer_after_a_step(torch.optim.AdamW, lr=0.1)
    saved = copy.deepcopy(optimizer.state_dict())
    for name in ('foreach', 'maximize', 'capturable', 'fused', 'differentiable'):
        saved['param_groups'][0].pop(name, None)
    require_optimizer_state(dict(optimizer=saved), optimizer, 'a.pth')


# of the toy's whole checkpoint
ODD_TRAININGS: dict[str, Change] = {
    'a number for a log': lambda saved: saved['message_hub']['log_scalars'].update({5: 1}),
    'a number for a name': lambda saved: saved['message_hub']['runtime_info'].update({5: 1}),
    'no answer': lambda saved: saved['message_hub']['resumed_keys'].update(iter='z'),
    'hub of a list': lambda saved: saved.update(message_hub=[1]),
    'schedules of numbers': lambda saved: saved.update(param_schedulers=[5]),
    'schedules by name': lambda saved: saved.update(param_schedulers={'a': []}),
    'schedules a number': lambda saved: saved.update(param_schedulers=5),
    'last step of text': lambda saved: saved['param_schedulers'][0].update(last_step='x'),
    'last step None': lambda saved: saved['param_schedulers'][0].update(last_step=None),
    'too few rates': lambda saved: saved['param_schedulers'][0].update(base_values=[]),
    'rates of text': lambda saved: saved['param_schedulers'][0].update(base_values=['x']),
    'a step that is none': lambda saved: saved['param_schedulers'][0].update(step=5),
    'epoch of text': lambda saved: saved['meta'].update(epoch='x'),
    'negative iteration': lambda saved: saved['meta'].update(iter=-1),
    'seed of text': lambda saved: saved['meta'].update(seed='x'),
    'momentum without size': lambda saved: saved['optimizer']['state'][0].update(
        momentum_buffer=torch.zeros(())
    ),
    'scales by name': lambda saved: saved['optimizer'].update(base_param_settings='x', state=7),
}


@pytest.mark.parametrize('name', ODD_TRAININGS)
def test_a_training_goes_on_only_from_what_one_saves(name: str, tmp_path: Path) -> None:
    train(make_runner(tmp_path / 'run', True))
    saved = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=False)
    ODD_TRAININGS[name](saved)
    path = tmp_path / 'odd.pth'
    torch.save(saved, path)
    runner = make_runner(tmp_path / 'again', True, resume_from=str(path))
    watch_run(runner, 'resume')
    with pytest.raises(InputError, match=rf'^{path} cannot be resumed: '):
        run_training(runner)


def test_what_no_check_foresees_names_the_checkpoint_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(make_runner(tmp_path / 'run', True))
    path = str(tmp_path / 'run/epoch_2.pth')
    runner = make_runner(tmp_path / 'again', True, resume_from=path)

    def refuse(state: dict) -> None:
        raise KeyError('of a hook of its own')

    monkeypatch.setattr(runner.message_hub, 'load_state_dict', refuse)
    with pytest.raises(InputError, match=rf"^{path} cannot be resumed: KeyError: 'of a hook"):
        run_training(runner)


def test_errors_of_the_steps_after_it_are_told_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(make_runner(tmp_path / 'run', True))
    runner = make_runner(tmp_path / 'again', True, resume_from=str(tmp_path / 'run/epoch_2.pth'))
    monkeypatch.setattr(NoisyLine, 'forward', lambda *_, **__: {}['of the model'])
    with pytest.raises(KeyError, match='of the model'):
        run_training(runner)


def test_a_model_alone_is_no_training() -> None:
    with pytest.raises(CheckpointError, match=r'not from a training that .*load_from'):
        require_training_state(dict(state_dict={}), 'a.pth')
