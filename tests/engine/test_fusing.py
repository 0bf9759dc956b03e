from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

from mmrest import ResTV2
from mmrest.backbones.fused import FoldedConv2d
from mmrest.engine.fusing import FuseHook
from tests.backbones.families import build, randomize
from tests.checkpoints.test_whole_models import Nothing, Pixels


class Images(Pixels):
    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.linspace(-1, 1, 3 * 40 * 40).view(3, 40, 40))


class Model(BaseModel):
    """Keeps the maps of its last test, and whether it was fused for it."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = randomize(build(ResTV2))
        self.maps: tuple[Tensor, ...] = ()
        self.was_fused = False

    def forward(self, inputs: Tensor, mode: str = 'tensor') -> Any:
        self.maps = self.backbone(inputs)
        self.was_fused = any(isinstance(m, FoldedConv2d) for m in self.modules())
        return list(self.maps[0])


def make_runner(model: nn.Module, folder: Path, hooks: list) -> Runner:
    return Runner(
        model=model,
        work_dir=str(folder),
        experiment_name=folder.name,
        test_dataloader=dict(
            batch_size=1,
            dataset=Images(),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        test_cfg=dict(),
        test_evaluator=Nothing(),
        custom_hooks=hooks,
        log_level='ERROR',
    )


def test_a_test_is_of_the_fused_model_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    model = Model()
    before = dict(model.named_modules())
    runner = make_runner(model, tmp_path, [dict(type='mmrest.FuseHook')])
    for _ in range(2):
        runner.test()
        assert model.was_fused
        assert dict(model.named_modules()) == before


@pytest.mark.parametrize('update_buffers', [False, True])
def test_averaged_weights_are_what_is_fused(tmp_path: Path, update_buffers: bool) -> None:
    """EMAHook exchanges weights around a test, by their order in the unfused model."""
    results, states = [], []
    for fuse in (False, True):
        torch.manual_seed(0)
        model = Model()
        ema = EMAHook(update_buffers=update_buffers)
        runner = make_runner(model, tmp_path / str(fuse), [ema, *([FuseHook()] if fuse else [])])
        runner.call_hook('before_run')
        torch.manual_seed(1)  # the runner draws a seed of its own
        randomize(ema.ema_model.module.backbone)
        averaged = {k: v.clone() for k, v in ema.ema_model.module.state_dict().items()}
        own = {k: v.clone() for k, v in model.state_dict().items()}
        runner.call_hook = _once(runner.call_hook)
        runner.test()
        assert model.was_fused == fuse
        results.append(model.maps)
        states.append(averaged)
        for key, value in model.state_dict().items():
            assert torch.equal(value, own[key]), key
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)


def _once(call_hook: Any) -> Any:
    """A runner that has called before_run already."""
    return lambda name, **kwargs: None if name == 'before_run' else call_hook(name, **kwargs)
