from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmrest.checkpoints import CheckpointError, read_checkpoint
from mmrest.engine import run_checks
from mmrest.engine.metric_names import metric_names
from mmrest.engine.run_checks import (
    BestMetricHook,
    CheckpointFitHook,
    EmptyResultsHook,
    FiniteLossHook,
    ResumedSettingsHook,
    files_of,
)
from mmrest.errors import InputError
from tests.checkpoints.test_whole_models import Pixels, Toy
from tests.engine.test_metric_names import Anything, coco_metric
from tests.engine.toy_training import make_runner, train


class Diverging(Toy):
    """A loss that is no number from the third step on."""

    steps = 0

    def forward(self, inputs: torch.Tensor, mode: str = 'tensor') -> Any:
        out = super().forward(inputs, mode)
        self.steps += 1
        return dict(loss=out['loss'] * float('nan')) if self.steps > 2 else out


def trainer(model: torch.nn.Module, folder: Path, **optim_wrapper: Any) -> Runner:
    loader = dict(
        batch_size=1,
        dataset=Pixels(),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1), **optim_wrapper)
    return Runner(
        model=model,
        work_dir=str(folder),
        experiment_name=folder.name,
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=5),
        optim_wrapper=wrapper,
        log_level='ERROR',
    )


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    runner = trainer(Diverging(), tmp_path)
    runner.register_hook(FiniteLossHook())
    with pytest.raises(InputError, match=r'the loss is nan in iteration 3 .*saved last: .*_2\.pth'):
        runner.train()
    names = sorted(file.name for file in tmp_path.glob('*.pth'))
    assert names == ['epoch_1.pth', 'epoch_2.pth']
    for name in names:
        state = read_checkpoint(tmp_path / name)['state_dict']
        assert all(value.isfinite().all() for value in state.values())


def test_a_scaler_may_skip_some_steps() -> None:
    hook = FiniteLossHook()
    runner = SimpleNamespace(
        optim_wrapper=SimpleNamespace(loss_scaler=object()), iter=0, epoch=0, work_dir='nowhere'
    )
    for _ in range(20):
        hook.after_train_iter(runner, 0, outputs=dict(loss=torch.tensor(float('inf'))))
    hook.after_train_iter(runner, 0, outputs=dict(loss=torch.tensor(1.0)))
    for _ in range(20):
        hook.after_train_iter(runner, 0, outputs=dict(loss=torch.tensor(float('inf'))))
    with pytest.raises(InputError, match=r'the loss is inf .*no checkpoint has been saved'):
        hook.after_train_iter(runner, 0, outputs=dict(loss=torch.tensor(float('inf'))))


class Metrics:
    def __init__(self, *metrics: object) -> None:
        self.metrics = metrics


def evaluate(metric: Any, detections: int) -> dict[str, float]:
    prediction = dict(
        img_id=1,
        bboxes=torch.tensor([[1.0, 1.0, 5.0, 5.0]])[:detections],
        scores=torch.ones(detections),
        labels=torch.zeros(detections, dtype=torch.long),
        masks=torch.ones(detections, 8, 8, dtype=torch.bool),
    )
    sample = dict(img_id=1, ori_shape=(8, 8), pred_instances=prediction)
    metric.process({}, [sample])
    return metric.evaluate(1)


@pytest.mark.parametrize(
    'options',
    [
        dict(metric='bbox'),
        dict(metric=['bbox', 'segm']),
        dict(metric='bbox', metric_items=['mAP', 'mAP_50']),
        dict(metric='bbox', prefix='own'),
    ],
)
def test_an_evaluation_that_finds_nothing_is_zero(options: dict, tmp_path: Path) -> None:
    found = evaluate(coco_metric(tmp_path, **options), 1)
    metric = coco_metric(tmp_path, **options)
    empty = evaluate(metric, 0)
    assert empty == {}
    logger = MMLogger.get_instance('test', log_level='ERROR')
    runner = SimpleNamespace(val_evaluator=Metrics(metric), logger=logger)
    EmptyResultsHook().after_val_epoch(runner, metrics=empty)
    numbers = {name for name, value in found.items() if isinstance(value, float)}
    assert empty == dict.fromkeys(numbers, 0.0)
    assert set(metric_names(Evaluator(metric))) == numbers


@pytest.mark.parametrize(
    ('best', 'said'),
    [
        ('auto', None),
        ('coco/bbox_mAP_50', None),
        ('bbox_mAP_50', r'which gives coco/bbox_mAP, .*; did you mean coco/bbox_mAP_50\?'),
        (['coco/bbox_mAP', 'mIoU'], "save_best='mIoU' .* is no metric of the evaluator"),
    ],
)
def test_a_best_checkpoint_by_no_metric_is_refused(
    best: str | list[str], said: str | None, tmp_path: Path
) -> None:
    evaluator = Evaluator(coco_metric(tmp_path, metric='bbox'))
    keeper = CheckpointHook(save_best=best, rule='greater')
    runner = SimpleNamespace(val_evaluator=evaluator, val_loop=object(), hooks=[keeper])
    with pytest.raises(InputError, match=said) if said else contextlib.nullcontext():
        BestMetricHook().before_train(runner)


def test_a_best_checkpoint_by_a_metric_of_ones_own_is_taken(tmp_path: Path) -> None:
    keeper = CheckpointHook(save_best='own', rule='greater')
    for evaluator in (Evaluator(Anything()), None):
        runner = SimpleNamespace(val_evaluator=evaluator, val_loop=evaluator, hooks=[keeper])
        BestMetricHook().before_train(runner)


def test_other_metrics_are_left_alone(tmp_path: Path) -> None:
    metrics = dict(mIoU=3.0)
    runner = SimpleNamespace(test_evaluator=Metrics(object()))
    EmptyResultsHook().after_test_epoch(runner, metrics=metrics)
    assert metrics == dict(mIoU=3.0)


def test_the_hooks_come_before_those_that_use_the_metrics() -> None:
    from mmengine.hooks import CheckpointHook, LoggerHook, RuntimeInfoHook
    from mmengine.runner import get_priority

    own = get_priority(EmptyResultsHook.priority)
    for hook in (CheckpointHook, LoggerHook, RuntimeInfoHook):
        assert own < get_priority(hook.priority)
    assert get_priority(FiniteLossHook.priority) < get_priority(CheckpointHook.priority)


@pytest.mark.parametrize(
    ('checkpoint', 'lr', 'said'),
    [
        ('epoch_2.pth', 1e-3, []),
        ('epoch_2.pth', 1e-2, [r"are the checkpoint's \(0\.001\), not those of .*\(0\.01\)"]),
        ('epoch_3.pth', 1e-3, ['nothing is left .* 15 iterations .3 epochs., .* asks for 15']),
    ],
)
def test_what_a_resumed_training_does_not_do_is_told(
    checkpoint: str, lr: float, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(make_runner(tmp_path, True))
    runner = make_runner(tmp_path, True, resume_from=str(tmp_path / checkpoint))
    runner.optim_wrapper['optimizer']['lr'] = lr
    warnings: list[str] = []
    monkeypatch.setattr(runner.logger, 'warning', lambda text, *_, **__: warnings.append(text))
    train(runner, hooks=[ResumedSettingsHook()])
    told = [text for text in warnings if 'learning rates' in text or 'nothing is left' in text]
    assert len(told) == len(said)
    for pattern, text in zip(said, told, strict=True):
        assert re.search(pattern, text)


def test_fewer_images_than_before_leave_epochs_to_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The iterations of two epochs of many are as many as all epochs of few would have."""
    train(make_runner(tmp_path, True))
    runner = make_runner(tmp_path, True, resume_from=str(tmp_path / 'epoch_2.pth'))
    monkeypatch.setattr(EpochBasedTrainLoop, 'max_iters', 1)
    warnings: list[str] = []
    monkeypatch.setattr(runner.logger, 'warning', lambda text, *_, **__: warnings.append(text))
    train(runner, hooks=[ResumedSettingsHook()])
    assert runner.epoch == 3
    assert not [text for text in warnings if 'nothing is left' in text]


def test_other_settings_of_the_optimizer_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(make_runner(tmp_path, True))
    runner = make_runner(tmp_path, True, resume_from=str(tmp_path / 'epoch_2.pth'))
    runner.optim_wrapper['optimizer'].update(weight_decay=0.5, maximize=True)
    warnings: list[str] = []
    monkeypatch.setattr(runner.logger, 'warning', lambda text, *_, **__: warnings.append(text))
    train(runner, hooks=[ResumedSettingsHook()])
    told = sorted(text for text in warnings if 'of the optimizer are the checkpoint' in text)
    assert len(told) == 2
    assert 'maximize' in told[0]
    assert '(False), not those of the config (True)' in told[0]
    assert 'weight_decay' in told[1]
    assert 'not those of the config (0.5)' in told[1]


@pytest.mark.parametrize(('scheduled', 'expected'), [('lr', ['betas']), ('momentum', [])])
def test_what_a_schedule_has_changed_is_no_other_setting(
    scheduled: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    warnings: list[str] = []
    runner = SimpleNamespace(
        optim_wrapper=SimpleNamespace(optimizer=optimizer),
        param_schedulers=[SimpleNamespace(param_name=scheduled)],
        logger=SimpleNamespace(warning=warnings.append),
        train_loop=None,
    )
    hook = ResumedSettingsHook()
    hook.before_run(runner)
    optimizer.param_groups[0]['betas'] = (0.7, 0.999)
    hook.before_train(runner)
    assert [text.split()[0] for text in warnings] == expected


def test_the_images_of_a_batch_are_named_however_it_is_made() -> None:
    samples = [SimpleNamespace(img_path='a.jpg'), SimpleNamespace(img_path='b.jpg')]
    assert files_of(dict(data_samples=samples)) == 'a.jpg, b.jpg'
    # of semi-supervised training, several views of each image
    assert files_of(dict(data_samples=dict(sup=samples, unsup=samples))) == 'a.jpg, b.jpg'
    for nameless in (dict(data_samples=[object()]), dict(data_samples={}), dict(), [1], None):
        assert files_of(nameless) == 'unknown'


def test_what_a_resumed_checkpoint_lacks_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """mmengine goes on with a new optimizer, and says nothing."""
    train(make_runner(tmp_path / 'run', True))
    whole = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=False)
    for left_out in ((), ('optimizer',), ('optimizer', 'param_schedulers')):
        part = {key: value for key, value in whole.items() if key not in left_out}
        torch.save(part, tmp_path / 'part.pth')
        runner = make_runner(tmp_path / f'run{len(left_out)}', True, 0, str(tmp_path / 'part.pth'))
        with caplog.at_level('WARNING'):
            messages: list[str] = []
            runner.logger.warning = messages.append
            train(runner, hooks=[ResumedSettingsHook()])
        said = ' '.join(messages)
        assert (f'holds no state of {" and ".join(left_out)}, as best' in said) == bool(left_out)


def of_two_optimizers(model: torch.nn.ModuleDict) -> OptimWrapperDict:
    optimizers = {name: torch.optim.AdamW(part.parameters()) for name, part in model.items()}
    return OptimWrapperDict(**{name: OptimWrapper(one) for name, one in optimizers.items()})


def odd_rate(state: dict) -> None:
    state['b']['param_groups'][0]['lr'] = 'x'


def odd_moments(state: dict) -> None:
    state['b']['state'][0]['exp_avg'] = torch.zeros(1)


def no_second(state: dict) -> None:
    del state['b']


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        (None, None),
        (odd_rate, "the optimizer's lr"),
        (odd_moments, 'exp_avg'),
        (no_second, "no state of the optimizer 'b'; it has a"),
    ],
)
def test_each_of_several_optimizers_is_looked_at(
    change: Callable[[dict], None] | None, named: str | None, tmp_path: Path
) -> None:
    model = torch.nn.ModuleDict({name: torch.nn.Linear(3, 2) for name in 'ab'})
    wrapper = of_two_optimizers(model)
    for part in wrapper.values():
        for parameter in part.optimizer.param_groups[0]['params']:
            parameter.grad = torch.ones_like(parameter)
        part.step()
    checkpoint = dict(
        meta=dict(epoch=1, iter=3),
        state_dict=model.state_dict(),
        optimizer=copy.deepcopy(wrapper.state_dict()),
        message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}),
    )
    if change is not None:
        change(checkpoint['optimizer'])
    runner = SimpleNamespace(
        model=model,
        optim_wrapper=of_two_optimizers(model),
        param_schedulers=None,
        work_dir=str(tmp_path),
        _load_from='it.pth',
    )
    load = partial(CheckpointFitHook('resume').after_load_checkpoint, runner, checkpoint)
    if named is None:
        load()
        return
    with pytest.raises(CheckpointError, match=r'it\.pth cannot be resumed') as error:
        load()
    assert named in str(error.value)


def test_counts_of_steps_are_kept_where_torch_makes_them() -> None:
    """On a GPU, whereto mmengine reads a checkpoint, each would be waited for in every step."""

    class OnGPU(torch.Tensor):
        def cpu(self) -> torch.Tensor:
            return torch.tensor(float(self))

    moments = torch.zeros(3)
    state = {0: dict(step=torch.tensor(7.0).as_subclass(OnGPU), exp_avg=moments), 1: dict(step=4)}
    run_checks._count_on_processor(dict(state=state))
    assert type(state[0]['step']) is torch.Tensor
    assert state[0]['step'] == 7
    assert state[0]['exp_avg'] is moments
    assert state[1]['step'] == 4
