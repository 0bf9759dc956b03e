from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS
from torch import nn
from torch._dynamo.utils import counters

from mmrest import ResT
from mmrest.backbones.layers import Block
from mmrest.engine import compiling
from mmrest.engine.valid_sizes import ValidSizesHook
from tests.backbones.families import STAGED_TINY, assert_close, step
from tests.backbones.test_implementations import build, cases


class Detector(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.backbone(images)


@cases
def test_compiles_every_block_and_leaves_the_names(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(nn.Module, 'compile', lambda self, **options: asked.append((self, options)))
    model = Detector(build(case))
    names = list(model.state_dict())
    compiling.compile_backbone(model)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    assert asked == [(block, dict(dynamic=True, fullgraph=True)) for block in blocks]
    assert blocks
    assert list(model.state_dict()) == names


def test_compiles_another_backbone_as_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(nn.Module, 'compile', lambda self, **options: asked.append((self, options)))
    model = Detector(nn.Linear(2, 2))
    compiling.compile_backbone(model)
    assert asked == [(model.backbone, dict(dynamic=True))]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('g++'), reason='torch.compile needs a C++ compiler')
@pytest.mark.parametrize('case', ['ResT', 'ResTV2', 'ResFormer'])
def test_blocks_are_trained_in_machine_code_for_all_sizes(case: str) -> None:
    torch._dynamo.reset()
    counters.clear()
    model = build(case).train()
    batches = [torch.randn(2, 3, *size) for size in [(65, 97), (33, 70), (97, 41)]]
    expected = [step(model, images) for images in batches]
    compiling.compile_backbone(model)
    for images, values in zip(batches, expected, strict=True):
        assert_close(step(model, images), values, 1e-3)
    # ResTv2's differ in what is cut off, ResFormer's first is for one grid
    most = {'ResT': 2, 'ResTV2': 4, 'ResFormer': 2}
    assert counters['stats']['unique_graphs'] <= most[case]
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize('case', ['ResTV2', 'ResFormer'])
def test_compiled_blocks_take_mixed_precision(case: str) -> None:
    torch._dynamo.reset()
    model = build(case).train()
    images = torch.randn(2, 3, 65, 97)
    expected = step(model, images)
    for block in model.modules():
        if isinstance(block, Block):
            block.compile(dynamic=True, fullgraph=True, backend='aot_eager')
    with torch.autocast('cpu', torch.bfloat16):
        outputs = model(images)
    outputs[-1].float().square().mean().backward()
    for actual, exact in zip(outputs, expected, strict=False):
        error = (actual.float() - exact).square().mean() / exact.square().mean()
        assert 0 < error < 1e-2
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(grads) > len(expected) // 2
    assert all(grad.isfinite().all() for grad in grads)
    torch._dynamo.reset()


def test_blocks_that_differ_in_their_rate_share_a_graph() -> None:
    torch._dynamo.reset()
    counters.clear()
    model = ResT(
        arch={**STAGED_TINY, 'depths': (4, 1)}, out_indices=(0,), drop_path_rate=0.3
    ).train()
    compiling.hold_rates(model)
    for block in model.stages[0].blocks:
        block.compile(dynamic=True, fullgraph=True, backend='aot_eager')
    model(torch.randn(2, 3, 64, 96))[0].sum().backward()
    assert counters['stats']['unique_graphs'] == 2  # the first block's rate is 0
    torch._dynamo.reset()


def test_is_a_hook_of_the_config() -> None:
    cfg = Config(dict(custom_hooks=[dict(type='EMAHook')]))
    compiling.use_compiled_backbone(cfg)
    assert [hook['type'] for hook in cfg.custom_hooks] == ['EMAHook', 'CompileBackboneHook']
    assert HOOKS.get('CompileBackboneHook') is compiling.CompileBackboneHook


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling.shutil, 'which', lambda name: None)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(ValueError, match='needs a C\\+\\+ compiler'):
        compiling.require_compiler()


def test_a_compiled_backbone_takes_no_valid_sizes() -> None:
    runner = SimpleNamespace(hooks=[ValidSizesHook()], model=None)
    with pytest.raises(ValueError, match='takes no valid sizes'):
        compiling.CompileBackboneHook().before_run(runner)
