from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS
from torch import nn

from mmrest import ResT
from mmrest.engine import compiling
from mmrest.engine.valid_sizes import ValidSizesHook
from tests.backbones.test_ways import SMALL


class Detector(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.backbone(images)


def test_compiles_the_backbone_and_leaves_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(nn.Module, 'compile', lambda self, **options: asked.append((self, options)))
    model = Detector(ResT(arch=SMALL, out_indices=(0, 1)))
    names = list(model.state_dict())
    compiling.compile_backbone(model)
    compiling.compile_backbone(Detector(nn.Linear(2, 2)))
    assert asked[0] == (model.backbone, dict(dynamic=True, fullgraph=True))
    assert asked[1][1] == dict(dynamic=True, fullgraph=False)
    assert list(model.state_dict()) == names


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
