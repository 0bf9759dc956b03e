"""What is checked is what is loaded: every layout, through every way to load a whole model."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner._flexible_runner import FlexibleRunner
from torch import Tensor, nn
from torch.utils.data import Dataset

from mmrest.checkpoints import (
    CheckpointError,
    require_fit,
    save_safetensors,
    use_safe_reader,
)
from mmrest.checkpoints.mmengine_loader import load_from_mmrest
from mmrest.checkpoints.states import model_state
from mmrest.engine.run_checks import CheckpointFitHook
from tests.conftest import ROOT

State = dict[str, Tensor]
_NUMBERS = itertools.count()
TINY = dict(
    embed_dims=(8, 16, 24, 32),
    depths=(1, 1, 1, 1),
    num_heads=(1, 2, 3, 4),
    sr_ratios=(8, 4, 2, 1),
    mlp_ratios=(1, 1, 1, 1),
)


def with_twins(state: State) -> State:
    """As mmdet 2's EMA hook writes: averaged weights, and twins that are something else."""
    return {**state, **{f'ema_{k.replace(".", "_")}': v + 1 for k, v in state.items()}}


def inside(wrapper: str) -> Callable[[State], State]:
    """The names of a model one of whose modules is wrapped."""

    def rename(state: State) -> State:
        return {
            f'{top}.{wrapper}{rest}' if rest else top: value
            for key, value in state.items()
            for top, _, rest in [key.partition('.')]
        }

    return rename


LAYOUTS: dict[str, Callable[[State], Any]] = {
    'state_dict': lambda s: {'state_dict': s, 'meta': {}},
    'bare': lambda s: s,
    'model': lambda s: {'model': s},
    'nested': lambda s: {'model': {'state_dict': s}, 'epoch': 3},
    'compiled': lambda s: {'state_dict': {f'_orig_mod.{k}': v for k, v in s.items()}},
    'module.module': lambda s: {'state_dict': {f'module.module.{k}': v for k, v in s.items()}},
    'compiled, distributed': lambda s: {f'module._orig_mod.{k}': v for k, v in s.items()},
    'a compiled part': lambda s: {'model': inside('_orig_mod.')(s)},
    'a part in FSDP': lambda s: {'model': inside('_fsdp_wrapped_module.')(s)},
    'a checkpointed part': lambda s: {'model': inside('_checkpoint_wrapped_module.')(s)},
    'numpy': lambda s: {'model': {k: v.numpy() for k, v in s.items()}},
    'averaged': lambda s: {
        'state_dict': {**{f'module.{k}': v for k, v in s.items()}, 'n_averaged': torch.tensor(3)}
    },
    "mmdet 2's EMA": lambda s: {'state_dict': with_twins(s), 'meta': {}},
    'safetensors': lambda s: s,
}


class Toy(BaseModel):
    """The least that a runner trains and tests."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor, mode: str = 'tensor') -> Any:
        out = self.part(inputs) * self.scale
        return dict(loss=out.mean()) if mode == 'loss' else list(out)


class Pixels(Dataset):
    metainfo: dict = {}

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.ones(1, 2, 2))


class Nothing(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        return dict(nothing=0.0)


@pytest.fixture(autouse=True)
def _safe_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    use_safe_reader()


def randomised(model: nn.Module) -> State:
    state = OrderedDict()
    for key, value in model.state_dict().items():
        state[key] = torch.rand_like(value) if value.is_floating_point() else value + 7
    return state


def write(state: State, layout: str, folder: Path) -> str:
    file = folder / ('file.safetensors' if layout == 'safetensors' else 'file.pth')
    if layout == 'safetensors':
        save_safetensors(state, str(file), {})
    else:
        torch.save(LAYOUTS[layout](state), file)
    return str(file)


def runner(kind: type, folder: Path, file: str | None, **more: Any) -> Any:
    loader = dict(
        batch_size=1,
        dataset=Pixels(),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    built = kind(
        model=Toy(),
        work_dir=str(folder / 'work'),
        experiment_name=f'{folder.name}-{next(_NUMBERS)}',
        load_from=file,
        log_level='ERROR',
        default_hooks=dict(checkpoint=None, logger=None),
        **{key: loader if value is None else value for key, value in more.items()},
    )
    built.register_hook(CheckpointFitHook('start' if 'train_dataloader' in more else 'test'))
    return built


def by_testing(kind: type, file: str, folder: Path) -> nn.Module:
    options = dict(test_dataloader=None, test_cfg=dict(), test_evaluator=Nothing())
    built = runner(kind, folder, file, **options)
    built.test()
    return built.model


def by_training(kind: type, file: str, folder: Path) -> nn.Module:
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.0))
    built = runner(
        kind,
        folder,
        file,
        train_dataloader=None,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=wrapper,
    )
    # a step changes a BatchNorm's statistics
    built.train_loop.run = lambda: built.model
    built.train()
    return built.model


WAYS = {
    'Runner.test': (by_testing, Runner),
    'Runner.train(load_from)': (by_training, Runner),
    'FlexibleRunner.test': (by_testing, FlexibleRunner),
    'FlexibleRunner.train(load_from)': (by_training, FlexibleRunner),
}


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('way', WAYS)
def test_runners_load_what_is_checked(way: str, layout: str, tmp_path: Path) -> None:
    state = randomised(Toy())
    load, kind = WAYS[way]
    model = load(kind, write(state, layout, tmp_path), tmp_path)
    assert_holds(model, state)


@pytest.mark.parametrize('way', WAYS)
def test_runners_refuse_what_does_not_fit(way: str, tmp_path: Path) -> None:
    torch.save({'model': {'other': torch.zeros(1)}}, tmp_path / 'file.pth')
    load, kind = WAYS[way]
    with pytest.raises(CheckpointError, match=r'does not fit the Toy of the config'):
        load(kind, str(tmp_path / 'file.pth'), tmp_path)


def test_a_file_of_another_model_says_what_it_is_of() -> None:
    meta = dict(experiment_name='upernet_20261128_101010')
    file = dict(state_dict={'neck.weight': torch.zeros(1)}, meta=meta)
    with pytest.raises(CheckpointError) as caught:
        require_fit(Toy(), file, 'a.pth')
    assert 'The file has neck; the model scale, part.' in str(caught.value)
    assert 'The file is of the training upernet_20261128_101010.' in str(caught.value)
    other_shape = {**Toy().state_dict(), 'scale': torch.zeros(7)}
    with pytest.raises(CheckpointError, match='wrong shape') as caught:
        require_fit(Toy(), other_shape, 'a.pth')
    assert 'The file' not in str(caught.value)


@pytest.mark.parametrize('kind', [Runner, FlexibleRunner])
def test_a_training_is_resumed(kind: type, tmp_path: Path) -> None:
    options = dict(
        train_dataloader=None,
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
    )
    first = runner(kind, tmp_path, None, train_cfg=dict(by_epoch=True, max_epochs=1), **options)
    first.train()
    first.save_checkpoint(str(tmp_path), 'epoch_1.pth')
    state = first.model.state_dict()
    file = str(tmp_path / 'epoch_1.pth')
    schedule = dict(by_epoch=True, max_epochs=3)
    second = runner(kind, tmp_path, file, train_cfg=schedule, resume=True, **options)
    second.register_hook(CheckpointFitHook('resume'))
    run, epochs = second.train_loop.run, []

    def spy() -> nn.Module:
        assert_holds(second.model, state)
        epochs.append(second.epoch)
        return run()

    second.train_loop.run = spy
    second.train()
    assert epochs == [2]  # save_checkpoint counts the epoch that it stands in
    torch.save({'state_dict': state}, file)
    third = runner(kind, tmp_path, file, train_cfg=schedule, resume=True, **options)
    third.register_hook(CheckpointFitHook('resume'))
    with pytest.raises(CheckpointError, match='is not from a training that can be resumed'):
        third.train()


def assert_holds(model: nn.Module, state: State) -> None:
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(loaded[key], value), key


@pytest.fixture
def detector() -> Config:
    cfg = Config.fromfile(ROOT / 'configs/retinanet_rest_lite_shapes.py')
    cfg.model.backbone.arch = TINY
    cfg.model.neck.in_channels = [16, 24, 32]
    return cfg


@pytest.fixture
def segmentor() -> Config:
    cfg = Config.fromfile(ROOT / 'configs/upernet_rest_lite_shapes.py')
    cfg.model.backbone.arch = TINY
    cfg.model.decode_head.in_channels = [8, 16, 24, 32]
    cfg.model.auxiliary_head.in_channels = 24
    return cfg


@pytest.fixture(autouse=True)
def _scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope('mmengine'):
        yield


@pytest.mark.parametrize('layout', LAYOUTS)
def test_mmdet_and_mmseg_load_it(
    layout: str, detector: Config, segmentor: Config, tmp_path: Path
) -> None:
    from mmdet.apis import DetInferencer, init_detector
    from mmseg.apis import init_model

    ways: list[tuple[Config, Callable]] = [
        (detector, lambda cfg, file: DetInferencer(cfg, file, device='cpu').model),
        (detector, lambda cfg, file: init_detector(cfg, file, device='cpu')),
        (segmentor, lambda cfg, file: init_model(cfg, file, device='cpu')),
    ]
    for cfg, load in ways:
        empty = load(cfg.copy(), None)
        state = randomised(empty)
        assert_holds(load(cfg.copy(), write(state, layout, tmp_path)), state)


def test_versions_of_modules_are_found_under_a_wrapper() -> None:
    state = nn.DataParallel(Toy()).state_dict()
    state._metadata['module.part.1']['version'] = 1  # of BatchNorm, older than today's
    found = model_state({'state_dict': state}, 'a.pth')
    expected = Toy().state_dict()
    assert found.keys() == expected.keys()
    assert found._metadata.keys() == expected._metadata.keys()
    assert found._metadata['part.1'] == {'version': 1}


def test_a_file_that_is_no_dictionary_is_left_to_whoever_asks(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / 'list.pth')
    (held,) = load_from_mmrest(str(tmp_path / 'list.pth'))
    assert torch.equal(held, torch.ones(2))


@pytest.mark.parametrize('purpose', ['test', 'start', 'resume'])
@pytest.mark.parametrize('kind', [torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused(
    kind: torch.dtype, purpose: str
) -> None:
    """Torch would convert them without a word."""
    state = Toy().state_dict()
    require_fit(Toy(), {'state_dict': state}, 'a.pth')  # its counter is of integers
    state['scale'] = state['scale'].to(kind)
    with pytest.raises(CheckpointError, match=rf'scale of {kind} instead of torch\.float32'):
        require_fit(Toy(), {'state_dict': state}, 'a.pth', partly=purpose == 'start')


@pytest.mark.parametrize('partly', [False, True])
@pytest.mark.parametrize('value', [math.nan, math.inf, 1.0])
@pytest.mark.parametrize('kind', [torch.float32, torch.float16, torch.float8_e4m3fn])
def test_weights_of_a_training_that_has_diverged_are_told(
    kind: torch.dtype, value: float, partly: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = Toy().state_dict()
    state['scale'] = torch.tensor([value]).to(kind)
    said: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', said.append)
    require_fit(Toy(), {'state_dict': state}, 'a.pth', partly=partly)
    told = bool(state['scale'].float().isnan())  # 8 bits may have it in the place of infinity
    assert said == ['a.pth holds NaN, as of a training that has diverged: scale'] * told
    assert told or not math.isnan(value)
