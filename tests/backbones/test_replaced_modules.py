"""What people do with a backbone's modules counts, in training and in inference.

Adapters, pruning, parametrisations, quantisation, other modules in the place of ours: each changes
the maps, and as the papers' equations say (``reference``, which takes no fast path).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from mmrest import MViTV2, ResT
from mmrest.backbones import PyramidBackbone
from mmrest.backbones.layers import MLP, ConvMLP, DropPath
from mmrest.ops import use_implementation
from tests.backbones.families import ROWS, build, families, randomize

LAYERS = nn.Linear, nn.Conv2d
MLPS = MLP, ConvMLP


class Adapter(nn.Module):
    """As LoRA libraries put for a layer: the layer, its weights by property, and a branch."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base_layer = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    weight = property(lambda self: self.base_layer.weight)
    bias = property(lambda self: self.base_layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.up(self.down(x))


class Louder(nn.Module):
    """A module and what it returns, times 1.5; attention gets its arguments through."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: object) -> Tensor:
        return 1.5 * self.module(*args)


def replace(model: nn.Module, kind: type | tuple, make: Callable[[nn.Module], nn.Module]) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, kind) and not isinstance(module, Adapter | Louder):
                setattr(module, name, make(child))


def adapt(model: nn.Module) -> None:
    replace(model, nn.Linear, Adapter)


def prune_all(model: nn.Module) -> None:
    for module in list(model.modules()):
        if isinstance(module, LAYERS):
            prune.l1_unstructured(module, 'weight', 0.5)


def normalise_weights(model: nn.Module) -> None:
    for module in list(model.modules()):
        if isinstance(module, LAYERS):
            parametrizations.weight_norm(module)
            module.parametrizations.weight.original0.data *= 1.5


def own_forward(model: nn.Module) -> None:
    """As tools that offload or watch a model do: an instance's ``forward`` is another one."""
    for module in list(model.modules()):
        if isinstance(module, (*LAYERS, nn.LayerNorm, nn.BatchNorm2d)):
            forward = module.forward
            module.forward = lambda x, forward=forward: 1.1 * forward(x)


def subclass(model: nn.Module) -> None:
    for module in list(model.modules()):
        if isinstance(module, (*LAYERS, nn.LayerNorm, nn.BatchNorm2d, *MLPS)):
            kind = type(module)
            louder = dict(forward=lambda self, x, kind=kind: 1.1 * kind.forward(self, x))
            module.__class__ = type(f'Louder{kind.__name__}', (kind,), louder)


def remove_norms(model: nn.Module) -> None:
    """Weights are smaller then: logits would grow until attention is an arg max."""
    replace(model, nn.LayerNorm, lambda _: nn.Identity())
    for module in model.modules():
        if isinstance(module, LAYERS):
            module.weight.data *= 0.2


CHANGES: dict[str, Callable[[nn.Module], None]] = {
    'adapters': adapt,
    'pruning': prune_all,
    'weight norm': normalise_weights,
    'a forward of its own': own_forward,
    'subclasses': subclass,
    'other LayerNorms': lambda model: replace(model, nn.LayerNorm, Louder),
    'other BatchNorms': lambda model: replace(model, nn.BatchNorm2d, Louder),
    'other convolutions': lambda model: replace(model, nn.Conv2d, Louder),
    'other MLPs': lambda model: replace(model, MLPS, Louder),
    'other drop paths': lambda model: replace(model, DropPath, Louder),
    'no LayerNorms': remove_norms,
    'no MLPs': lambda model: replace(model, MLPS, lambda _: nn.Identity()),
}


# these families between them have every kind of module; of the others some changes in every run
CHANGED_IN_EVERY_RUN = ResT, MViTV2
MADE_IN_EVERY_RUN = 'adapters', 'subclasses', 'other LayerNorms', 'other MLPs'
changes = pytest.mark.parametrize(
    ('family', 'change'),
    [
        pytest.param(
            family,
            change,
            marks=[]
            if family in CHANGED_IN_EVERY_RUN or change in MADE_IN_EVERY_RUN
            else pytest.mark.slow,
            id=f'{family.__name__}-{change}',
        )
        for family in ROWS
        for change in CHANGES
    ],
)


def changed(family: type[PyramidBackbone], change: str) -> tuple[nn.Module, nn.Module]:
    plain = randomize(build(family)).double()
    model = copy.deepcopy(plain)
    CHANGES[change](model)
    return plain, model.double()


def step(
    model: nn.Module, images: Tensor, implementation: str
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Maps and gradients towards random directions; the model stays as it was."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    generator = torch.Generator().manual_seed(1)
    with use_implementation(implementation):
        maps = model(images)
        directions = [torch.randn(m.shape, generator=generator, dtype=m.dtype) for m in maps]
        sum((m * d).sum() for m, d in zip(maps, directions, strict=True)).backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return [m.detach() for m in maps], grads


def assert_same(actual: Tensor, expected: Tensor, tolerance: float, scale: float = 0.0) -> None:
    """Close, relative to the largest number or to ``scale``, where what is compared may be 0."""
    scale = max(float(expected.abs().max()), scale)
    torch.testing.assert_close(actual / scale, expected / scale, rtol=tolerance, atol=tolerance)


@changes
def test_it_counts_in_training_and_inference(family: type[PyramidBackbone], change: str) -> None:
    if not ROWS[family].batch_norm and change == 'other BatchNorms':
        return  # it has none
    plain, model = changed(family, change)
    images = torch.randn(2, 3, 40, 72, dtype=torch.double)
    for training in (True, False):
        maps, grads = step(model.train(training), images, 'auto')
        expected, expected_grads = step(model, images, 'reference')
        for a, b in zip(maps, expected, strict=True):
            assert_same(a, b, 1e-8)
        assert grads.keys() == expected_grads.keys()
        largest = max(float(g.abs().max()) for g in expected_grads.values() if g is not None)
        for name, gradient in grads.items():
            assert (gradient is None) == (expected_grads[name] is None), name
            if gradient is not None:
                # without norms attention is nearly an arg max, whose gradients are ill-conditioned
                tolerance = 1e-4 if change == 'no LayerNorms' else 1e-6
                assert_same(gradient, expected_grads[name], tolerance, scale=1e-3 * largest)
        other = plain.train(training)(images)
        if change != 'other drop paths':
            assert not any(torch.allclose(a, b) for a, b in zip(maps, other, strict=True))
    model.eval()
    with torch.no_grad():
        for a, b in zip(model(images), expected, strict=True):
            assert_same(a, b, 1e-8)


@changes
def test_it_counts_in_float32_as_users_run_it(family: type[PyramidBackbone], change: str) -> None:
    """The fast paths are those of float32."""
    _, model = changed(family, change)
    model = model.float().eval()
    images = torch.randn(1, 3, 40, 72)
    with use_implementation('reference'):
        expected = model(images)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            for a, b in zip(model(images), expected, strict=True):
                assert_same(a, b, 1e-3)


@families
def test_every_adapter_learns(family: type[PyramidBackbone]) -> None:
    _, model = changed(family, 'adapters')
    _, grads = step(model.float().train(), torch.randn(1, 3, 40, 72), 'auto')
    learns = {name: g for name, g in grads.items() if '.up.' in name or '.down.' in name}
    assert len(learns) > 10
    for name, gradient in learns.items():
        if 'up_norm' not in name and not name.endswith('up.0.weight'):
            assert gradient is not None, name
            assert gradient.any(), name


@families
def test_dynamic_quantisation(family: type[PyramidBackbone]) -> None:
    model = randomize(build(family)).eval()
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    images = torch.randn(1, 3, 40, 72)
    with torch.no_grad():
        maps, expected = quantised(images), model(images)
        with use_implementation('reference'):
            literal = quantised(images)
    for a, b, c in zip(maps, expected, literal, strict=True):
        assert not torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-2, atol=1e-2)


@families
def test_attention_may_be_any_module(family: type[PyramidBackbone]) -> None:
    model = build(family).eval()
    for module in model.modules():
        # some of MViTv2's make a smaller and wider map
        keeps_shape = getattr(module, 'stride', 1) == 1 and getattr(module, 'proj', None) is None
        if hasattr(module, 'attn') and keeps_shape:
            module.attn = nn.Identity()
    images = torch.randn(1, 3, 40, 72)
    with torch.no_grad():
        maps = model(images)
        with use_implementation('reference'):
            expected = model(images)
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('rate', [0.0, 0.3, 0.9])
def test_stochastic_depth_keeps_the_mean(rate: float) -> None:
    """Samples are dropped at the rate, and the others scaled so that the mean stays."""
    drop = DropPath(rate).train()
    branch = torch.ones(20000, 2, 3)
    out = drop(branch)
    samples = out[:, 0, 0]
    assert torch.equal(out, samples[:, None, None].expand_as(out))
    assert (samples == 0).float().mean() == pytest.approx(rate, abs=0.02)
    kept = samples[samples != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - rate)))
    assert torch.equal(drop.eval()(branch), branch)
    assert repr(drop) == f'DropPath(rate={rate:g})'


@families
def test_stochastic_depth_of_a_model_can_be_changed_and_removed(
    family: type[PyramidBackbone],
) -> None:
    model = build(family, drop_path_rate=0.5).train()
    paths = [m for m in model.modules() if isinstance(m, DropPath)]
    of_blocks = [
        path.rate
        for stage in range(1, 10)
        for module in model.stage_modules(stage)
        for path in module.modules()
        if isinstance(path, DropPath)
    ]
    # linearly from 0 to the rate of the last block
    assert of_blocks == pytest.approx(torch.linspace(0, 0.5, len(of_blocks)).tolist())
    images = torch.randn(2, 3, 40, 72)
    assert not torch.equal(model(images)[-1], model(images)[-1])
    for path in paths:
        path.rate = 0.0
    still = [level.detach() for level in model(images)]
    torch.testing.assert_close(list(model(images)), still)
    for block in model.modules():
        if hasattr(block, 'drop_path'):
            block.drop_path = nn.Identity()
    torch.testing.assert_close(list(model(images)), still, rtol=1e-3, atol=1e-4)


@families
def test_a_rate_of_one_drops_every_branch(family: type[PyramidBackbone]) -> None:
    model = build(family, drop_path_rate=0.5).train()
    for module in model.modules():
        if isinstance(module, DropPath):
            module.rate = 1.0
    assert all(level.isfinite().all() for level in model(torch.randn(2, 3, 40, 72)))


@families
def test_a_model_that_was_built_on_meta_trains(family: type[PyramidBackbone]) -> None:
    state = build(family, drop_path_rate=0.5).state_dict()
    with torch.device('meta'):
        model = build(family, drop_path_rate=0.5)
    model = model.to_empty(device='cpu')
    model.load_state_dict(state)
    maps = model.train()(torch.randn(2, 3, 40, 72))
    assert all(level.isfinite().all() for level in maps)
