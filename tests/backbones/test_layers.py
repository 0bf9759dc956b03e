from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrest import ResT, ResTV2
from mmrest.backbones import PyramidBackbone
from mmrest.backbones.layers import (
    MLP,
    Block,
    ConvMLP,
    DropPath,
    PixelAttention,
    TokenConv,
    apply_linear,
    can_fuse,
    normalize_and_mlp,
    run_layers,
    stochastic_depth_rates,
)
from mmrest.ops import strips, use_implementation
from mmrest.ops.cpu import mlp as chunked
from tests.backbones.families import build, families, randomize


def leaves(model: nn.Module) -> dict[str, nn.Module]:
    """Modules without children."""
    return {name: m for name, m in model.named_modules() if not list(m.children())}


def test_a_block_is_the_papers() -> None:
    torch.manual_seed(0)
    block = Block(nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8), MLP(8, 24), DropPath(0.0))
    x = torch.randn(2, 5, 7, 8)
    attended = x + block.attn(block.norm1(x))
    hidden = torch.nn.functional.gelu(block.mlp.fc1(block.norm2(attended)))
    torch.testing.assert_close(block(x), attended + block.mlp.fc2(hidden))


def test_a_block_hands_its_context_to_whoever_takes_it() -> None:
    class Takes(nn.Module):
        def forward(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
            return x * grid[0]

    parts = nn.Identity(), nn.Identity(), nn.Identity()
    x = torch.ones(1, 2, 3)
    for attn, factor in ((Takes(), 1 + 5), (nn.Identity(), 2), (nn.Sequential(nn.Identity()), 2)):
        block = Block(parts[0], attn, parts[1], parts[2], DropPath(0.0))
        assert torch.equal(block(x, (5, 7)), 2 * factor * x)


@pytest.mark.parametrize(
    'layer',
    [
        nn.Linear(4, 4),
        nn.Conv2d(4, 4, 1),
        nn.BatchNorm2d(4),
        nn.LayerNorm(4),
        nn.Identity(),
        TokenConv(4, 4, 1),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        type('Own', (nn.Linear,), {})(4, 4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_only_plain_layers_are_fused(layer: nn.Module) -> None:
    plain = type(layer) in (nn.Linear, nn.Conv2d, nn.BatchNorm2d)
    assert can_fuse(layer) == plain
    assert can_fuse(nn.Linear(4, 4), layer) == plain
    for kind in ('forward', 'forward_pre', 'full_backward', 'full_backward_pre'):
        handle = getattr(layer, f'register_{kind}_hook')(lambda *_: None)
        assert not can_fuse(layer)
        handle.remove()
    assert can_fuse(layer) == plain
    everywhere = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not can_fuse(layer)
    everywhere.remove()
    layer.forward = lambda x: x
    assert not can_fuse(layer)


def test_linear_layers_are_called_or_computed() -> None:
    x, layer = torch.randn(3, 8), nn.Linear(8, 4)
    torch.testing.assert_close(apply_linear(layer, x), layer(x))
    assert torch.equal(apply_linear(nn.Identity(), x), x)


def test_layers_run_with_and_without_recomputation() -> None:
    layers = nn.ModuleList([nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)])
    x = torch.randn(2, 4, requires_grad=True)
    expected = nn.Sequential(*layers)(x)
    saved = []
    for with_cp in (False, True):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            out = run_layers(layers, x, with_cp=with_cp)
        torch.testing.assert_close(out, expected)
        saved.append(None)
        grads = torch.autograd.grad(nn.Sequential(*layers)(x).sum(), x)
        for _ in range(2):  # passes through one graph
            again = torch.autograd.grad(out.sum(), x, retain_graph=True)
            torch.testing.assert_close(again, grads)
    first = saved.index(None)
    assert first > len(saved) - first - 2


def test_pixel_attention_is_the_papers() -> None:
    position = PixelAttention(4)
    x = torch.randn(2, 5, 6, 4)
    conv = position.pa_conv
    maps = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, 1, 1, 1, 4)
    torch.testing.assert_close(position(x), x * maps.permute(0, 2, 3, 1).sigmoid())


def test_rates_of_stochastic_depth_grow_linearly() -> None:
    """Deep Networks with Stochastic Depth, Section 3: the l-th of L blocks is dropped at l/L."""
    rates = stochastic_depth_rates(0.4, (2, 1, 2))
    assert [len(stage) for stage in rates] == [2, 1, 2]
    assert [rate for stage in rates for rate in stage] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert stochastic_depth_rates(0.4, (1,)) == [[0.0]]


@families
def test_hooks_see_what_was_computed(family: type[PyramidBackbone]) -> None:
    model = randomize(build(family)).eval()
    seen: dict[str, Any] = {}
    for name, module in leaves(model).items():
        module.register_forward_hook(lambda m, args, out, name=name: seen.update({name: out}))
    images = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        model(images)
        fast = dict(seen)
        seen.clear()
        with use_implementation('reference'):
            model(images)
    assert fast.keys() == seen.keys() == leaves(model).keys()
    for name, out in seen.items():
        torch.testing.assert_close(fast[name], out, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('everywhere', [False, True], ids=['hooks of modules', 'global hooks'])
@families
def test_hooks_see_what_is_not_changed_afterwards(
    family: type[PyramidBackbone], everywhere: bool
) -> None:
    model = build(family).eval()
    images = torch.randn(1, 3, 72, 40)
    with torch.no_grad():
        expected = model(images)
    # lists of modules are not called themselves
    watched = [m for m in model.modules() if not isinstance(m, nn.ModuleList | nn.ModuleDict)]
    seen = {module: [] for module in watched}

    def look(module: nn.Module, args: tuple, out: torch.Tensor) -> None:
        if module in seen:
            tensors = [t for t in (*args, out) if isinstance(t, torch.Tensor)]
            seen[module].append([(t, t.clone()) for t in tensors])

    if everywhere:
        handles = [nn.modules.module.register_module_forward_hook(look)]
    else:
        handles = [module.register_forward_hook(look) for module in watched]
    with torch.no_grad():
        actual = model(images)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
    assert all(seen.values())
    for tensors in (tensors for calls in seen.values() for tensors in calls):
        assert all(torch.equal(then, now) for then, now in tensors)


@pytest.mark.parametrize('pre', [False, True])
@families
def test_backward_hooks_are_called_and_change_nothing(
    family: type[PyramidBackbone], pre: bool
) -> None:
    model = randomize(build(family)).train()
    images = torch.randn(1, 3, 72, 40)

    with torch.no_grad():
        maps = model.eval()(images)
    model.train()
    # behind a LayerNorm the mean square is constant: its gradients are zero
    directions = [torch.randn_like(level) for level in maps]

    def gradients() -> list[torch.Tensor]:
        loss = sum((d * level).sum() for d, level in zip(directions, model(images), strict=True))
        return torch.autograd.grad(loss, list(model.parameters()))

    expected = gradients()
    called = []
    watched = leaves(model)
    for name, module in watched.items():
        kind = 'register_full_backward_pre_hook' if pre else 'register_full_backward_hook'
        getattr(module, kind)(lambda *args, name=name: called.append(name))
    actual = gradients()
    assert set(called) == watched.keys()
    # that of a bias in front of a BatchNorm or a softmax is zero but for rounding
    largest = max(float(gradient.abs().max()) for gradient in expected)
    for a, b in zip(actual, expected, strict=True):
        scale = max(float(b.abs().max()), 1e-3 * largest)
        torch.testing.assert_close(a / scale, b / scale, rtol=5e-3, atol=5e-3)
    assert sum(bool(g.abs().max() > 1e-3 * largest) for g in expected) > len(expected) / 2


@pytest.mark.parametrize('training', [False, True])
def test_a_hook_on_the_drop_path_sees_what_is_not_overwritten(training: bool) -> None:
    block = ResTV2(drop_path_rate=0.5).stages[0].blocks[0].train(training)
    seen = []
    block.drop_path.register_forward_hook(
        lambda module, args, out: seen.extend((t, t.clone()) for t in (*args, out))
    )
    x = torch.randn(4, 6, 6, 96)
    copy = x.clone()
    with torch.no_grad():
        block(x)
    assert len(seen) == 4
    assert all(torch.equal(now, then) for now, then in seen)
    assert torch.equal(x, copy)


@pytest.mark.parametrize('make', [PixelAttention, lambda c: ResT('lite').stages[1].blocks[0]])
def test_inference_keeps_the_dtype_that_training_has_under_autocast(make: Any) -> None:
    module = make(128).eval()
    x = torch.randn(1, 8, 8, 128)
    with torch.autocast('cpu', torch.bfloat16):
        expected = module(x.clone())
        with torch.no_grad():
            actual = module(x.clone())
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.05)


@families
def test_recomputation_is_by_the_implementation_of_the_forward_pass(
    family: type[PyramidBackbone],
) -> None:
    model = randomize(build(family, with_cp=True)).train()
    images = torch.randn(1, 3, 40, 40)
    with use_implementation('reference'):
        maps = model(images)
    directions = [torch.randn_like(level) for level in maps]
    grads = torch.autograd.grad(maps, list(model.parameters()), directions)
    assert all(gradient.isfinite().all() for gradient in grads)


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (7, 5), (16, 3)], ids=str)
@pytest.mark.parametrize('rows', [0, 1, 2, 5])
def test_a_convolutional_mlp_in_strips_is_that_of_the_whole_map(
    size: tuple[int, int], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlp = ConvMLP(4, 12, nn.Hardswish(), nn.GELU()).double()
    x = torch.randn(2, *size, 4, dtype=torch.float64)
    hidden = mlp.act1(x @ mlp.fc1.weight.T + mlp.fc1.bias).permute(0, 3, 1, 2)
    hidden = mlp.act2(nn.functional.conv2d(hidden, mlp.conv.weight, mlp.conv.bias, 1, 1, 1, 12))
    expected = hidden.permute(0, 2, 3, 1) @ mlp.fc2.weight.T + mlp.fc2.bias
    monkeypatch.setattr(strips, '_STRIP_ELEMENTS', rows * size[1] * 12)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), expected)
        seen: list[torch.Size] = []
        mlp.conv.register_forward_hook(lambda _, inputs, output: seen.append(output.shape))
        torch.testing.assert_close(mlp(x), expected)
    assert seen == [(2, *size, 12)]  # whoever looks sees the whole map


class DoublingNorm(nn.LayerNorm):
    """What a user may put in a norm's place."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) -> the same shape."""
        return 2 * super().forward(x)


def double_what_it_gives(module: nn.Module) -> None:
    module.register_forward_hook(lambda _, inputs, output: 2 * output)


CHANGES = {
    'nothing': (lambda norm, mlp: (norm, mlp), 1, 1),
    'a hook on the norm': (lambda norm, mlp: (double_what_it_gives(norm), mlp), 2, 1),
    'a hook on the MLP': (lambda norm, mlp: (norm, double_what_it_gives(mlp)), 1, 2),
    'a hook on its last layer': (lambda norm, mlp: (norm, double_what_it_gives(mlp.fc2)), 1, 2),
    'a norm of another kind': (lambda norm, mlp: (DoublingNorm(4), mlp), 2, 1),
    'an MLP of another kind': (
        lambda norm, mlp: (norm, nn.Sequential(mlp.fc1, nn.GELU(), mlp.fc2)),
        1,
        1,
    ),
}


@pytest.mark.parametrize('change', CHANGES)
def test_a_norm_and_an_mlp_are_whatever_somebody_made_of_them(change: str) -> None:
    norm, mlp = nn.LayerNorm(4), MLP(4, 12)
    x, (alter, normalized, outputs) = torch.randn(2, 90, 4), CHANGES[change]
    hidden = F.gelu(F.linear(normalized * F.layer_norm(x, (4,)), mlp.fc1.weight, mlp.fc1.bias))
    expected = outputs * F.linear(hidden, mlp.fc2.weight, mlp.fc2.bias)
    altered = [a or b for a, b in zip(alter(norm, mlp), (norm, mlp), strict=True)]
    torch.testing.assert_close(normalize_and_mlp(*altered, x), expected)


@pytest.mark.parametrize('normalized', [(4,), (3, 4)], ids=str)
def test_what_a_norm_gives_is_not_kept_for_gradients(
    normalized: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, '_CHUNK_ELEMENTS', 1)
    norm, mlp, x, kept = nn.LayerNorm(normalized), MLP(4, 12), torch.randn(2, 3, 4), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        normalize_and_mlp(norm, mlp, x.requires_grad_()).sum()
    ours = [t for t in kept if t.numel() == x.numel() and not isinstance(t, nn.Parameter)]
    storages = {t.untyped_storage().data_ptr() for t in ours}
    is_plain = len(normalized) == 1
    assert (storages == {x.untyped_storage().data_ptr()}) == is_plain
