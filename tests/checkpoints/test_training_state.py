"""A training goes on from what one saves; anything else is named before the first step."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

from mmrest.checkpoints import (
    CheckpointError,
    require_optimizer_state,
    require_schedulers_state,
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
    with pytest.raises(CheckpointError, match=r'^a\.pth cannot be resumed: ') as raised:
        require_optimizer_state(dict(optimizer=saved), optimizer, 'a.pth')
    # what is wrong, and not what failed in looking at it
    assert re.search(
        r"optimizer(\.state|\.param_groups|'s lr|'s weight_decay|'s exp_avg of parameter 0) in it"
        r'|of parameter [01] the optimizer can make no step \(\w+Error: .+\)'
        r'|exp_avg of parameter 0 has the shape None',
        str(raised.value),
    )


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


@pytest.mark.parametrize(
    ('name', 'value', 'named'),
    [
        ('lr', 'x', "the optimizer's lr in it"),
        ('initial_lr', 'x', "the optimizer's initial_lr in it"),
        ('exp_avg', torch.zeros(4, 3).to_sparse(), "the optimizer's exp_avg of parameter 0 in it"),
        (
            'step',
            torch.zeros(7),
            'with what it holds of parameter 0 the optimizer can make no step',
        ),
    ],
)
def test_what_is_wrong_with_an_optimizer_is_named(name: str, value: Any, named: str) -> None:
    optimizer = optimizer_after_a_step(torch.optim.AdamW, lr=0.1)
    optimizer.param_groups[0]['initial_lr'] = 0.1
    saved = copy.deepcopy(optimizer.state_dict())
    place = saved['param_groups'][0] if 'lr' in name else saved['state'][0]
    place[name] = value
    with pytest.raises(CheckpointError, match=rf'^a\.pth cannot be resumed: {named}'):
        require_optimizer_state(dict(optimizer=saved), optimizer, 'a.pth')


def test_groups_that_name_their_parameters_are_taken() -> None:
    """As the layer-wise decays of mmdet, mmseg and mmengine do."""
    model = nn.Linear(3, 4)
    groups = [
        dict(params=[parameter], param_names=[name], lr_scale=0.5)
        for name, parameter in model.named_parameters()
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    require_optimizer_state(dict(optimizer=optimizer.state_dict()), optimizer, 'a.pth')
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.1)
    require_optimizer_state(dict(optimizer=optimizer.state_dict()), optimizer, 'a.pth')


@pytest.mark.parametrize('options', [dict(fused=True), dict(foreach=True), dict()], ids=str)
@pytest.mark.parametrize('saved', [dict(fused=True), dict(foreach=True), dict()], ids=str)
def test_another_way_of_computing_a_step_is_taken(saved: dict, options: dict) -> None:
    model = nn.Linear(3, 4)
    before, now = (torch.optim.AdamW(model.parameters(), **each) for each in (saved, options))
    model(torch.ones(1, 3)).sum().backward()
    before.step()
    require_optimizer_state(dict(optimizer=before.state_dict()), now, 'a.pth')


def test_options_that_an_older_torch_did_not_save_are_not_missed() -> None:
    optimizer = optimizer_after_a_step(torch.optim.AdamW, lr=0.1)
    saved = copy.deepcopy(optimizer.state_dict())
    for name in ('foreach', 'maximize', 'capturable', 'fused', 'differentiable'):
        saved['param_groups'][0].pop(name, None)
    require_optimizer_state(dict(optimizer=saved), optimizer, 'a.pth')


# of the toy's whole checkpoint: what is named, and the change
HUB, SCHEDULE = 'message_hub', 'of the schedule LinearLR'
ODD_TRAININGS: dict[str, tuple[str, Change]] = {
    'a number for a log': (HUB, lambda saved: saved[HUB]['log_scalars'].update({5: 1})),
    'a number for a name': (HUB, lambda saved: saved[HUB]['runtime_info'].update({5: 1})),
    'no answer': (HUB, lambda saved: saved[HUB]['resumed_keys'].update(iter='z')),
    'no logs': (HUB, lambda saved: saved[HUB].pop('log_scalars')),
    'hub of a list': (HUB, lambda saved: saved.update(message_hub=[1])),
    'schedules of numbers': (
        'param_schedulers',
        lambda saved: saved.update(param_schedulers=[5]),
    ),
    'schedules by name': (
        'param_schedulers',
        lambda saved: saved.update(param_schedulers={'a': []}),
    ),
    'schedules a number': ('param_schedulers', lambda saved: saved.update(param_schedulers=5)),
    'last step of text': (
        f'last_step {SCHEDULE}',
        lambda saved: saved['param_schedulers'][0].update(last_step='x'),
    ),
    'a step that is none': (
        f'step {SCHEDULE}',
        lambda saved: saved['param_schedulers'][0].update(step=5),
    ),
    'epoch of text': ('meta.epoch', lambda saved: saved['meta'].update(epoch='x')),
    'no iteration': ('meta.iter', lambda saved: saved['meta'].pop('iter')),
    'negative iteration': ('meta.iter', lambda saved: saved['meta'].update(iter=-1)),
    'an iteration beyond all': ('meta.iter', lambda saved: saved['meta'].update(iter=2**31)),
    'seed of text': ('meta.seed', lambda saved: saved['meta'].update(seed='x')),
    'seed beyond all': ('meta.seed', lambda saved: saved['meta'].update(seed=2**32)),
    'optimizer a list': ('optimizer', lambda saved: saved.update(optimizer=[1])),
    'states a number': ('optimizer.state', lambda saved: saved['optimizer'].update(state=7)),
    'epoch and seed': (
        'meta.epoch, meta.seed',
        lambda saved: saved['meta'].update(epoch='x', seed='x'),
    ),
}


@pytest.mark.parametrize('name', ODD_TRAININGS)
def test_a_training_goes_on_only_from_what_one_saves(name: str, tmp_path: Path) -> None:
    train(make_runner(tmp_path / 'run', True))
    saved = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=False)
    said, change = ODD_TRAININGS[name]
    change(saved)
    path = tmp_path / 'odd.pth'
    torch.save(saved, path)
    runner = make_runner(tmp_path / 'again', True, resume_from=str(path))
    watch_run(runner, 'resume')
    said = f'{path} cannot be resumed: {said} in it is not what a training saves'
    with pytest.raises(InputError, match=rf'^{re.escape(said)}$'):
        run_training(runner)


def test_the_first_and_last_counts_are_taken() -> None:
    hub = dict(log_scalars={}, runtime_info={}, resumed_keys={})
    for meta in (dict(epoch=0, iter=0, seed=0), dict(epoch=2**31 - 1, iter=1, seed=2**32 - 1)):
        require_training_state(dict(meta=meta, message_hub=hub), 'a.pth')
    require_training_state(dict(meta=dict(epoch=1, iter=1), message_hub=hub), 'a.pth')


SCHEDULES: dict[str, dict] = {
    'LinearLR': dict(start_factor=0.1, end=9),
    'MultiStepLR': dict(milestones=[2, 4]),
    'CosineAnnealingLR': dict(T_max=9),
    'PolyLR': dict(power=0.9, end=9),
    'OneCycleLR': dict(eta_max=0.1, total_steps=9),
    'ExponentialLR': dict(gamma=0.9),
    'StepLR': dict(step_size=3),
    'CosineRestartLR': dict(periods=[4, 5], restart_weights=[1, 0.5], eta_min=0),
    'ConstantMomentum': dict(factor=0.5, end=4),
    'ReduceOnPlateauLR': dict(monitor='loss'),
}


def built(name: str, steps: int = 0) -> Any:
    groups = [dict(params=[part]) for part in nn.Linear(1, 1).parameters()]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    schedule = PARAM_SCHEDULERS.build(dict(type=name, optimizer=optimizer, **SCHEDULES[name]))
    for _ in range(steps):
        optimizer.step()
        if name != 'ReduceOnPlateauLR':
            schedule.step()
    return schedule


@pytest.mark.parametrize('name', SCHEDULES)
def test_what_a_schedule_saves_is_taken(name: str) -> None:
    state = built(name, steps=3).state_dict()
    require_schedulers_state(dict(param_schedulers=[state]), [built(name)], 'a.pth')
    by_name = dict(first=[state], second=[state, state])
    schedules = dict(first=[built(name)], second=[built(name)])
    require_schedulers_state(dict(param_schedulers=by_name), schedules, 'a.pth')
    require_schedulers_state({}, schedules, 'a.pth')


def test_a_schedule_that_has_changed_is_taken_as_mmengine_does() -> None:
    cases = [
        ('MultiStepLR', dict(milestones=Counter([7, 8, 9]), end=30)),
        ('LinearLR', dict(base_values=[np.float32(0.1), torch.tensor(0.1)])),
        ('LinearLR', dict(end=20, begin=5, start_factor=1, verbose=True)),
        ('CosineRestartLR', dict(periods=[4, 5, 6], restart_weights=[1, 0.5, 0.5])),
        ('PolyLR', dict(an_entry_of_another_version='x', eta_min=1)),
    ]
    for name, changes in cases:
        state = {**built(name, steps=3).state_dict(), **changes}
        require_schedulers_state(dict(param_schedulers=[state]), [built(name)], 'a.pth')
    schedule = built('LinearLR')
    schedule.of_ones_own = None  # and what it is later
    state = {**built('LinearLR').state_dict(), 'of_ones_own': 5}
    require_schedulers_state(dict(param_schedulers=[state]), [schedule], 'a.pth')


@pytest.mark.parametrize(
    ('name', 'changes', 'named'),
    [
        ('LinearLR', dict(last_step='x'), 'last_step'),
        ('LinearLR', dict(last_step=None), 'last_step'),
        ('LinearLR', dict(last_step=torch.ones(2)), 'last_step'),
        ('LinearLR', dict(base_values=[0.1]), 'base_values'),
        ('LinearLR', dict(base_values=[]), 'base_values'),
        ('LinearLR', dict(base_values=['x', 'y']), 'base_values'),
        ('LinearLR', dict(base_values=5), 'base_values'),
        ('LinearLR', dict(_last_value=[0.1] * 3), '_last_value'),
        ('LinearLR', dict(by_epoch='x', end='9'), 'by_epoch, end'),
        ('LinearLR', dict(step=5, state_dict=1, last_step=[1]), 'last_step, state_dict, step'),
        ('LinearLR', dict(param_name=5), 'param_name'),
        ('MultiStepLR', dict(milestones=5), 'milestones'),
        ('MultiStepLR', dict(milestones='2, 4'), 'milestones'),
        ('CosineRestartLR', dict(periods=5), 'periods'),
    ],
)
def test_what_a_schedule_cannot_take_over_is_named(
    name: str, changes: dict[str, Any], named: str
) -> None:
    state = {**built(name, steps=3).state_dict(), **changes}
    said = f'a.pth cannot be resumed: {named} of the schedule {name} in it is not'
    with pytest.raises(CheckpointError, match=f'^{re.escape(said)}'):
        require_schedulers_state(dict(param_schedulers=[state]), [built(name)], 'a.pth')
    sound = built(name).state_dict()
    by_name = dict(first=[sound], second=[sound, state])
    schedules = dict(first=[built(name)], second=[built(name), built(name)])
    with pytest.raises(CheckpointError, match=f'^{re.escape(said)}'):
        require_schedulers_state(dict(param_schedulers=by_name), schedules, 'a.pth')


def test_schedules_of_an_optimizer_that_are_no_list_are_named() -> None:
    for saved in (dict(first=5), dict(), [1]):
        with pytest.raises(CheckpointError, match=r'^a\.pth .*: param_schedulers first in it is'):
            require_schedulers_state(
                dict(param_schedulers=saved), dict(first=[built('LinearLR')]), 'a.pth'
            )


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
    with pytest.raises(CheckpointError, match=r'not from a training'):
        require_training_state(dict(meta=dict(epoch=1, iter=2)), 'a.pth')
