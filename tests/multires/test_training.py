from __future__ import annotations

import copy
import itertools
import pickle
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.runner.checkpoint import load_checkpoint, save_checkpoint
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmrest.engine.valid_sizes import use_valid_sizes
from mmrest.errors import InputError
from mmrest.multires import MultiResolutionDDP, ScaleConsistencyLoss, resizing
from mmrest.multires.training import _features
from tests.gpu_autocast import gpu_dtypes
from tests.multires import two_processes
from tests.multires.models import BACKBONES, TASKS, batch, build, gradients
from tests.two_processes import run_both

SCALES = (1.0, 0.7, 0.5)
tasks = pytest.mark.parametrize('task', TASKS)
backbones = pytest.mark.parametrize('backbone', BACKBONES)


def multi(config: dict, scales: tuple[float, ...] = SCALES, **options: Any) -> nn.Module:
    return build(dict(type='MultiResolution', model=config, scales=scales, **options))


def preprocess(model: nn.Module, task: str) -> dict[str, Any]:
    return model.data_preprocessor(batch(task), True)


def targets_of(backbone: str) -> list[str]:
    return ['cls', 'gap', 'map'] if backbone == 'ResFormer' else ['gap', 'map']


def test_whitened_chain_equals_a_hand_calculation() -> None:
    """The paper's loss, with class tokens taken from the backbone by hand."""
    config = TASKS['segmentation']()
    model = multi(config, consistency=dict(target='cls'))
    plain = build(config)
    data = preprocess(model, 'segmentation')
    total, logged = model.parse_losses(model(**data, mode='loss'))
    tokens, task_losses = [], []
    for scale in SCALES:
        inputs, samples = resizing.resize_batch(*data.values(), scale, resizing.Padding(32))
        loss, _ = plain.parse_losses(plain(inputs, samples, mode='loss'))
        task_losses.append(loss)
        tokens.append(plain.backbone.encode(inputs)[0][1][:, 0])
    consistencies = [
        F.smooth_l1_loss(low, F.layer_norm(high.detach(), high.shape[-1:], eps=1e-6))
        for high, low in itertools.pairwise(tokens)
    ]
    expected = (sum(task_losses) + sum(consistencies)) / 3
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(logged['loss'], expected)
    for scale, value in zip(('0.7', '0.5'), consistencies, strict=True):
        torch.testing.assert_close(logged[f'x{scale}.loss_consistency'], value)
    assert 'x1.loss_consistency' not in logged
    for scale, loss, more in zip(
        ('1', '0.7', '0.5'), task_losses, [0, *consistencies], strict=True
    ):
        torch.testing.assert_close(logged[f'x{scale}.total'], loss + more)
    total.backward()
    expected.backward()
    torch.testing.assert_close(gradients(model), gradients(plain))


@tasks
@backbones
def test_one_resolution_is_the_plain_model(task: str, backbone: str) -> None:
    config = TASKS[task](backbone)
    model, plain = multi(config, scales=(1.0,), consistency={}), build(config)
    data = preprocess(plain, task)
    expected, _ = plain.parse_losses(plain(**data, mode='loss'))
    total, _ = model.parse_losses(model(**preprocess(model, task), mode='loss'))
    torch.testing.assert_close(total, expected)


@tasks
@backbones
def test_taking_resolutions_in_turn_changes_no_gradient(task: str, backbone: str) -> None:
    for target in targets_of(backbone):
        states, logs = [], []
        for accumulate in (False, True):
            model = multi(
                TASKS[task](backbone), accumulate=accumulate, consistency=dict(target=target)
            )
            wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
            logs.append(model.train_step(batch(task), wrapper))
            assert wrapper._inner_count == 1
            states.append({k: v.clone() for k, v in model.state_dict().items()})
        torch.testing.assert_close(states[0], states[1], rtol=1e-4, atol=1e-5)
        assert list(logs[0]) == list(logs[1])
        for name, value in logs[0].items():
            torch.testing.assert_close(logs[1][name], value, msg=name)


@pytest.mark.parametrize('accumulate', [False, True], ids=['at once', 'in turn'])
def test_in_turn_one_resolution_is_in_memory_at_a_time(accumulate: bool) -> None:
    model = multi(TASKS['segmentation'](), accumulate=accumulate, consistency={})
    maps: list[weakref.ref] = []
    alive: list[int] = []

    def watch(module: nn.Module, args: tuple) -> None:
        alive.append(sum(ref() is not None for ref in maps))

    model.backbone.register_forward_pre_hook(watch)
    inner = model.backbone.blocks[0]
    inner.register_forward_hook(lambda module, args, out: maps.append(weakref.ref(out)))
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    model.train_step(batch('segmentation'), wrapper)
    assert alive == ([0, 0, 0] if accumulate else [0, 1, 2])


class Apart(MultiResolutionDDP):
    """Knows in which passes nothing is exchanged, as the wrapper of several processes does."""

    def __init__(self, module: nn.Module) -> None:
        nn.Module.__init__(self)
        self.module = module
        self.is_apart = False
        self.passes: list[bool] = []

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        self.is_apart = True
        yield
        self.is_apart = False

    def forward(self, **data: Any) -> Any:
        self.passes.append(self.is_apart)
        return self.module(**data)


def test_gradients_are_exchanged_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = Apart(multi(TASKS['segmentation'](), accumulate=True))
    wrapper = OptimWrapper(torch.optim.SGD(wrapped.parameters(), lr=0.1))
    entered, context = [], wrapper.optim_context
    monkeypatch.setattr(wrapper, 'optim_context', lambda m: entered.append(m) or context(m))
    wrapped.train_step(batch('segmentation'), wrapper)
    assert wrapped.passes == [True, True, False]
    # mixed precision for the batch and for each resolution
    assert [model is wrapped for model in entered] == [True] * 4


def test_all_resolutions_at_once_are_a_step_of_mmengines_wrapper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MMDistributedDataParallel, 'train_step', lambda *given: given)
    wrapped = Apart(multi(TASKS['segmentation'](), accumulate=False))
    assert wrapped.train_step('data', 'wrapper') == (wrapped, 'data', 'wrapper')
    with pytest.raises(InputError, match=r"a model of type='MultiResolution' alone"):
        Apart(nn.Linear(1, 1)).train_step('data', 'wrapper')


def test_gradients_accumulate_over_steps_as_ever() -> None:
    model = multi(TASKS['segmentation'](), accumulate=True)
    before = copy.deepcopy(model.state_dict())
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 4)
    model.train_step(batch('segmentation'), wrapper)
    torch.testing.assert_close(dict(model.state_dict()), dict(before))
    model.train_step(batch('segmentation'), wrapper)
    assert not torch.equal(
        model.state_dict()['decode_head.conv_seg.weight'], before['decode_head.conv_seg.weight']
    )


@tasks
@backbones
def test_the_checkpoint_is_a_plain_models(task: str, backbone: str, tmp_path: Path) -> None:
    config = TASKS[task](backbone)
    model, plain = multi(config, consistency=dict(target='gap')), build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert dict(model.named_parameters()).keys() == dict(plain.named_parameters()).keys()
    save_checkpoint(dict(state_dict=model.state_dict()), str(tmp_path / 'model.pth'))
    load_checkpoint(plain, str(tmp_path / 'model.pth'), strict=True)
    data = preprocess(plain, task)
    plain.eval(), model.eval()
    with torch.no_grad():
        for a, b in zip(model(data['inputs']), plain(data['inputs']), strict=True):
            torch.testing.assert_close(a, b)
        predictions = [m(**copy.deepcopy(data), mode='predict') for m in (model, plain)]
    for a, b in zip(*predictions, strict=True):
        field = 'seg_logits' if task == 'segmentation' else 'pred_instances'
        torch.testing.assert_close(dict(a.get(field).items()), dict(b.get(field).items()))


@tasks
def test_copies_and_modes_are_the_models_own(task: str) -> None:
    model = multi(TASKS[task]('ResT', frozen_stages=1), consistency=dict(target='gap'))
    twin = copy.deepcopy(model).train()
    assert not any(p.requires_grad for p in twin.backbone.stages[0].parameters())
    assert not twin.backbone.stages[0].training
    results = [m.parse_losses(m(**preprocess(m, task), mode='loss'))[0] for m in (model, twin)]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize('backbone', ['ResT', 'ResFormer'])
def test_valid_sizes_are_told_at_every_resolution(backbone: str) -> None:
    """The losses of an image do not depend on the batch's padding then."""
    model = multi(TASKS['segmentation'](backbone, **norm_eval(backbone)), consistency={})
    use_valid_sizes(model)
    told: list[Any] = []
    original = model.backbone.set_valid_sizes
    model.backbone.set_valid_sizes = lambda sizes: (told.append(sizes), original(sizes))
    model(**preprocess(model, 'segmentation'), mode='loss')
    assert told[::2] == [[(64, 96), (50, 81)], [(45, 67), (35, 57)], [(32, 48), (25, 40)]]
    assert told[1::2] == [None] * 3


def norm_eval(backbone: str) -> dict[str, bool]:
    return dict(norm_eval=True) if backbone == 'ResT' else {}


@tasks
@backbones
def test_half_precision_and_recomputation(backbone: str, task: str) -> None:
    config = TASKS[task](backbone, with_cp=True)
    model = multi(config, consistency=dict(target='gap'))
    data = preprocess(model, task)
    exact, _ = model.parse_losses(model(**copy.deepcopy(data), mode='loss'))
    with gpu_dtypes():
        with torch.autocast('cpu', torch.bfloat16):
            half, _ = model.parse_losses(model(**data, mode='loss'))
        half.backward()
    assert half.item() == pytest.approx(exact.item(), rel=0.05)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_it_can_be_pickled() -> None:
    model = multi(TASKS['segmentation']('ResT'), consistency=dict(target='map'))
    twin = pickle.loads(pickle.dumps(model))
    assert type(twin) is type(model)
    results = [
        m.parse_losses(m(**preprocess(m, 'segmentation'), mode='loss'))[0] for m in (model, twin)
    ]
    torch.testing.assert_close(*results)


def take_multiples_of_32(backbone: nn.Module, inputs: tuple[Tensor]) -> None:
    assert not inputs[0].shape[-1] % 32, 'must be a multiple of 32'


def test_models_that_need_multiples_get_them() -> None:
    config = TASKS['segmentation']()
    config['data_preprocessor'].pop('size_divisor')
    config['data_preprocessor']['size'] = (64, 96)
    model = multi(config)
    model.backbone.register_forward_pre_hook(take_multiples_of_32)
    data = preprocess(model, 'segmentation')
    with pytest.raises(
        ValueError,
        match=r'(?s)^must be a multiple of 32\n.*scale 0\.7, where the images are 45x67;.*=32',
    ):
        model(**data, mode='loss')
    model = multi(config, size_divisor=32)
    model.backbone.register_forward_pre_hook(take_multiples_of_32)
    model(**preprocess(model, 'segmentation'), mode='loss')


def test_the_preprocessor_of_a_config_is_the_models() -> None:
    # mmseg's base configs name it beside the model
    config = TASKS['segmentation']()
    beside = config.pop('data_preprocessor')
    model = multi(config, data_preprocessor=dict(beside, size_divisor=64))
    assert type(model.data_preprocessor).__name__ == 'SegDataPreProcessor'
    assert model.data_preprocessor.size_divisor == 64


@pytest.mark.parametrize(
    ('error', 'width', 'raised', 'said'),
    [
        (AssertionError(), 70, InputError, '^AssertionError\n.*scale 0.7, where the images are'),
        (RuntimeError('CUDA out of memory'), 70, RuntimeError, '^CUDA out of memory$'),
        # of the images as they are
        (RuntimeError('a bug'), 96, RuntimeError, '^a bug$'),
    ],
)
def test_what_the_model_says_is_told_with_the_scale(
    error: Exception, width: int, raised: type[Exception], said: str
) -> None:
    def fail(backbone: nn.Module, inputs: tuple[Tensor]) -> None:
        if inputs[0].shape[-1] <= width:
            raise error

    config = TASKS['segmentation']()
    config['data_preprocessor'].pop('size_divisor')
    config['data_preprocessor']['size'] = (64, 96)
    model = multi(config)
    model.backbone.register_forward_pre_hook(fail)
    with pytest.raises(raised, match=f'(?s){said}'):
        model(**preprocess(model, 'segmentation'), mode='loss')


def test_all_at_once_is_refused_where_it_should_be_in_turn() -> None:
    model = multi(TASKS['segmentation'](), accumulate=True)
    with pytest.raises(ValueError, match='MultiResolutionDDP'):
        model(**preprocess(model, 'segmentation'), mode='loss')


def test_the_optimizer_sees_every_parameter_under_its_plain_name() -> None:
    model = multi(TASKS['segmentation'](), consistency={})
    names = {name.split('.')[0] for name, _ in model.named_parameters()}
    assert names == {'backbone', 'decode_head'}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(scales=(0.5, 1.0)), 'must fall from high to low'),
        (dict(scales=(1.0, 1.0)), 'must fall from high to low'),
        (dict(scales=()), 'must fall from high to low'),
        (dict(scales=(1.0, 0.0)), 'must fall from high to low'),
        (dict(scales=1.0), 'must fall from high to low'),
        (dict(consistency='gap'), 'must be None or like dict'),
        (dict(consistency=dict(weight=2)), "unexpected keyword argument 'weight'"),
        (dict(backbone=dict(with_cp=True)), r'those of its model: model\.model\.backbone'),
        (dict(consistency=dict(target='cls')), "target='cls' needs a ResFormer"),
        (dict(consistency=dict(target='token')), 'must be one of'),
        (dict(model=dict(type='mmrest.ResT', arch='lite')), 'no detector or segmentor'),
    ],
)
def test_what_cannot_be_is_named(options: dict, message: str) -> None:
    config = dict(type='MultiResolution', model=TASKS['detection']('ResT'))
    with pytest.raises(ValueError, match=message):
        build({**config, **options})


def test_class_tokens_and_valid_sizes_exclude_each_other() -> None:
    model = multi(TASKS['segmentation'](), consistency=dict(target='cls'))
    use_valid_sizes(model)
    with pytest.raises(ValueError, match='exclude each other'):
        model(**preprocess(model, 'segmentation'), mode='loss')


@pytest.mark.parametrize(
    ('task', 'accumulate'),
    [
        ('detection', False),
        ('segmentation', True),
        pytest.param('detection', True, marks=pytest.mark.slow),
        pytest.param('segmentation', False, marks=pytest.mark.slow),
    ],
)
def test_two_processes_are_one_with_the_whole_batch(
    task: str, accumulate: bool, tmp_path: Path
) -> None:
    model = build(two_processes.model_config(task, accumulate))
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    logged = model.train_step(two_processes.whole_batch(task), wrapper)
    reports = run_both(two_processes.train, (task, accumulate), tmp_path)
    state = model.state_dict()
    for report in reports:
        for name, value in report['state'].items():
            torch.testing.assert_close(value, state[name], rtol=1e-4, atol=1e-6, msg=name)
    for name, value in logged.items():
        if 'loss' in name or 'total' in name:
            both = torch.stack([report['logged'][name] for report in reports]).mean()
            torch.testing.assert_close(both, value, rtol=1e-4, atol=1e-5, msg=name)


def test_what_is_several_times_already_is_refused() -> None:
    model = multi(TASKS['segmentation']())
    with pytest.raises(ValueError, match='trains at several resolutions already'):
        build(dict(type='MultiResolution', model=model, scales=SCALES))
    with pytest.raises(ValueError, match='a batch must be one tensor of images'):
        model([torch.zeros(3, 64, 64)], [], mode='loss')
    plain = Apart(build(TASKS['segmentation']()))
    with pytest.raises(ValueError, match="wraps a model of type='MultiResolution' alone"):
        plain.train_step({}, None)
    model = multi(TASKS['segmentation']('ResFormer'), consistency=dict(target='cls'))
    model.backbone.compile()
    with pytest.raises(ValueError, match="target='cls' and a compiled backbone exclude"):
        model(**preprocess(model, 'segmentation'), mode='loss')


@pytest.mark.parametrize('as_tuple', [False, True])
def test_what_is_compared_leaves_the_padding_out(as_tuple: bool) -> None:
    level = torch.arange(2.0 * 8).view(2, 1, 2, 4)  # of images of 32x64, the second without padding
    output = (torch.zeros(2, 1, 4, 8), level) if as_tuple else level
    samples = [BaseDataElement(metainfo=dict(img_shape=shape)) for shape in ((16, 48), (32, 64))]
    inputs = torch.zeros(2, 3, 32, 64)
    pooled = _features(ScaleConsistencyLoss(target='gap'), [None, output], inputs, samples)
    # three cells of the first row are 0, 1, 2; all of the second are 8 to 15
    assert torch.equal(pooled, torch.tensor([[1.0], [11.5]]))
    parts = _features(ScaleConsistencyLoss(target='map'), [output], inputs, samples)
    assert [tuple(part.shape) for part in parts] == [(1, 1, 3), (1, 2, 4)]
    tokens = torch.arange(12.0).view(2, 2, 3)
    tokens = _features(ScaleConsistencyLoss(target='cls'), [tokens], inputs, samples)
    assert torch.equal(tokens, torch.tensor([[0.0, 1, 2], [6, 7, 8]]))
