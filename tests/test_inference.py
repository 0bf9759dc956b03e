"""Models that are fused for inference compute what they did, and pass for nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn

from mmrest import ResT, ResTV2
from mmrest.backbones import PyramidBackbone
from mmrest.backbones.fused import FoldedConv2d, FoldsNorms
from mmrest.checkpoints import CheckpointError, load_pretrained, require_fit
from mmrest.errors import InputError
from mmrest.inference import fuse
from mmrest.inference import fused as fused_for_a_while
from mmrest.ops import use_implementation
from tests.backbones.families import ROWS, build, families, randomize

SIZES = [(1, 1), (33, 70), (96, 64)]
staged = pytest.mark.parametrize(
    'family', [f for f, row in ROWS.items() if row.batch_norm], ids=lambda family: family.__name__
)


@pytest.mark.parametrize('grad', [False, True])
@families
def test_computes_what_the_model_does(family: type[PyramidBackbone], grad: bool) -> None:
    model = randomize(build(family)).double().eval()
    state = copy.deepcopy(model.state_dict())
    fast = fuse(model)
    assert fast is not model
    for size in SIZES:
        images = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=grad)
        with torch.set_grad_enabled(grad):
            with use_implementation('reference'):
                expected = model(images)
            maps = fast(images)
            torch.testing.assert_close(maps, expected, rtol=1e-9, atol=1e-9)
        if grad:
            directions = [torch.randn_like(level) for level in maps]
            grads = [torch.autograd.grad(levels, images, directions) for levels in (maps, expected)]
            torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-9)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])
    left = [name for name, module in fast.named_modules() if isinstance(module, nn.BatchNorm2d)]
    # a BatchNorm on a sum of maps has no convolution to go into
    assert not [name for name in left if not name.startswith('level_norms.')]


@families
def test_computes_the_same_in_float32_and_under_autocast(family: type[PyramidBackbone]) -> None:
    model = randomize(build(family)).eval()
    fast = fuse(model)
    images = torch.randn(2, 3, 70, 50)
    with torch.no_grad():
        for a, b in zip(fast(images), model(images), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
        with torch.autocast('cpu', torch.bfloat16):
            for a, b in zip(fast(images), model(images), strict=True):
                assert a.dtype == b.dtype
                assert (a - b).abs().max() < 0.1 * b.abs().max()


def test_in_place_and_for_a_while() -> None:
    model = randomize(build(ResTV2)).eval()
    before = dict(model.named_modules())
    images = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        expected = model(images)
        with fused_for_a_while(model):
            assert any(isinstance(m, FoldedConv2d) for m in model.modules())
            torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-3)
        assert dict(model.named_modules()) == before
        assert torch.equal(model(images)[0], expected[0])
        assert fuse(model, inplace=True) is model
    assert any(isinstance(m, FoldedConv2d) for m in model.modules())


@staged
def test_a_model_in_training_is_refused(family: type[PyramidBackbone]) -> None:
    with pytest.raises(InputError, match=r'call model.eval\(\) first'):
        fuse(build(family).train())
    model = fuse(build(family).eval())
    with pytest.raises(InputError, match='cannot be trained'):
        model.train()(torch.randn(2, 3, 40, 40))


@staged
def test_states_do_not_pass_for_each_other(family: type[PyramidBackbone], tmp_path) -> None:
    model = randomize(build(family)).eval()
    fast = fuse(model)
    for load in (
        lambda own, state: own.load_state_dict(state, strict=False),
        lambda own, state: load_state_dict(own, state, strict=False),
    ):
        with pytest.raises(InputError, match='fused for inference'):
            load(model, fast.state_dict())
        with pytest.raises(InputError, match='Load it first, then fuse'):
            load(fast, model.state_dict())
    again = fuse(build(family).eval())
    again.load_state_dict(fast.state_dict())
    images = torch.randn(1, 3, 40, 40)
    torch.testing.assert_close(again(images), fast(images))
    file = tmp_path / 'fused.pth'
    torch.save(fast.state_dict(), file)
    with pytest.raises(CheckpointError, match='fused for inference'):
        load_pretrained(model, str(file))
    with pytest.raises(CheckpointError, match='fused for inference'):
        require_fit(model, fast.state_dict(), 'fused.pth')


class Twice(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Tensor) -> Tensor:
        return 2 * self.module(*args)


@pytest.mark.parametrize('kind', [nn.BatchNorm2d, nn.Conv2d, nn.Linear, nn.LayerNorm, nn.ReLU])
@families
def test_what_was_replaced_stays(family: type[PyramidBackbone], kind: type) -> None:
    model = randomize(build(family)).double().eval()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is kind and not isinstance(module, Twice):
                setattr(module, name, Twice(child))
    images = torch.randn(1, 3, 50, 70, dtype=torch.float64)
    torch.testing.assert_close(fuse(model)(images), model(images), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('kinds', [(nn.BatchNorm2d, nn.Conv2d), (nn.ReLU,)], ids=str)
@families
def test_what_is_hooked_is_still_called(family: type[PyramidBackbone], kinds: tuple) -> None:
    model = build(family).eval()
    called = set()
    hooked = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    for name, module in hooked.items():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    fuse(model)(torch.randn(1, 3, 40, 40))
    assert called == hooked.keys()


@staged
def test_relus_behind_norms_are_folded(family: type[PyramidBackbone]) -> None:
    model = build(family).eval()
    assert not any(isinstance(module, nn.ReLU) for module in fuse(model).modules())


def test_a_module_cannot_be_folded_twice() -> None:
    with pytest.raises(TypeError, match='names a module twice'):
        type('Shared', (nn.Module, FoldsNorms), dict(folds=(('a', 'b', 'act'), ('c', 'd', 'act'))))


@staged
def test_a_module_with_another_forward_stays(family: type[PyramidBackbone]) -> None:
    model = randomize(build(family)).double().eval()
    folding = [m for m in model.modules() if isinstance(m, FoldsNorms)]
    assert folding
    for module in folding:
        kind = type(module)
        louder = dict(forward=lambda self, x, kind=kind: 1.1 * kind.forward(self, x))
        module.__class__ = type('Louder', (kind,), louder)
    images = torch.randn(1, 3, 40, 40, dtype=torch.float64)
    fast = fuse(model)
    assert not any(isinstance(m, FoldedConv2d) for m in fast.modules())
    torch.testing.assert_close(fast(images), model(images), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    'other',
    [
        nn.Conv2d(4, 8, 1, padding=0, groups=2),
        nn.Conv2d(4, 8, 3, padding=2, dilation=2),
        nn.Conv2d(4, 8, (1, 3), padding=(0, 1)),
        nn.Conv2d(4, 8, 3, stride=(1, 1), padding=1, padding_mode='reflect'),
    ],
    ids=str,
)
def test_stems_of_other_convolutions_stay(other: nn.Conv2d) -> None:
    model = randomize(build(ResT)).double().eval()
    model.stages[0].embed.conv3 = copy.deepcopy(other).double()
    images = torch.randn(1, 3, 40, 44, dtype=torch.float64)
    torch.testing.assert_close(fuse(model)(images), model(images), rtol=1e-9, atol=1e-9)


def test_a_stem_with_another_module_stays() -> None:
    model = randomize(build(ResTV2)).double().eval()
    model.stages[0].embed.proj.append(nn.Tanh())
    images = torch.randn(1, 3, 40, 44, dtype=torch.float64)
    torch.testing.assert_close(fuse(model)(images), model(images), rtol=1e-9, atol=1e-9)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        bn = dict(type='BN')
        self.plain = ConvModule(4, 6, 3, padding=1, norm_cfg=bn)
        self.strided = ConvModule(6, 6, 3, stride=2, groups=2, bias=True, norm_cfg=bn)
        self.without = ConvModule(6, 6, 1)
        self.first = ConvModule(6, 6, 3, norm_cfg=bn, order=('norm', 'conv', 'act'))
        self.mirrored = ConvModule(6, 6, 3, padding=1, norm_cfg=bn)
        self.mirrored.conv.padding_mode = 'reflect'
        self.mirrored.conv._reversed_padding_repeated_twice = [1, 1, 1, 1]
        self.shared1 = ConvModule(6, 6, 1, norm_cfg=bn)
        self.shared2 = ConvModule(6, 6, 1, norm_cfg=bn)
        self.shared2.conv = self.shared1.conv
        self.folding = ConvModule(6, 6, 1, norm_cfg=bn)
        self.folding.turn_on_efficient_conv_bn_eval()
        self.grouped = ConvModule(6, 6, 1, norm_cfg=dict(type='GN', num_groups=2))

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


def test_conv_modules_of_necks_and_heads() -> None:
    model = randomize(Head()).double().eval()
    fast = fuse(model)
    x = torch.randn(2, 4, 30, 40, dtype=torch.float64)
    torch.testing.assert_close(fast(x), model(x))
    folded = {n for n, m in fast.named_children() if isinstance(m.conv, FoldedConv2d)}
    # convolutions that two norms share cannot be folded into both
    assert folded == {'plain', 'strided'}
