from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

from mmrest import ResFormer, ResT, ResTV2
from mmrest.backbones import PyramidBackbone, spatial_reduction
from mmrest.backbones.layers import Double, LayerNorm2d, PixelAttention, conv_norm_relu_conv
from mmrest.ops import attention_way, strips


def stem(norm: type[nn.Module]) -> nn.Sequential:
    conv = lambda c: nn.Conv2d(c, 8, 3, stride=2, padding=1, bias=False)  # noqa: E731
    return nn.Sequential(conv(3), norm(8), nn.ReLU(), conv(8), norm(8), nn.ReLU(), conv(8))


@pytest.mark.parametrize('norm', [nn.BatchNorm2d, LayerNorm2d])
@pytest.mark.parametrize('training', [True, False])
def test_recomputed_convolutions_are_a_plain_sequence(norm: type, training: bool) -> None:
    plain = stem(norm).double().train(training)
    lean = copy.deepcopy(plain)
    images = torch.randn(2, 3, 20, 30, dtype=torch.double)
    for _ in range(2):  # running statistics go on from where they are
        expected = plain(images)
        result = conv_norm_relu_conv(lean[::3], lean[1::3], images)
        torch.testing.assert_close(result, expected)
        for out in (expected, result):
            out.square().sum().backward()
    for (name, value), other in zip(
        plain.state_dict().items(), lean.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(other, value, msg=name)
    for parameter, other in zip(plain.parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(other.grad, parameter.grad)
    with torch.no_grad():
        torch.testing.assert_close(
            conv_norm_relu_conv(lean[::3], lean[1::3], images), plain(images)
        )


def test_what_happens_between_the_passes_changes_no_recomputation() -> None:
    model = ResT(
        arch=dict(embed_dims=(8,), depths=(1,), num_heads=(2,), sr_ratios=(4,), mlp_ratios=(2,)),
        out_indices=(0,),
        drop_path_rate=0.0,
    ).double()
    images = torch.randn(2, 3, 40, 40, dtype=torch.double)
    grads = []
    for interfere in (False, True):
        loss = model.train()(images)[0].square().mean()
        if interfere:
            model.eval()
        with attention_way('reference' if interfere else 'auto'):
            grads.append(torch.autograd.grad(loss, list(model.parameters())))
    torch.testing.assert_close(grads[0], grads[1])


def test_hooks_see_what_was_computed() -> None:
    model = ResT('lite').eval()
    seen = {}
    for name, module in model.named_modules():
        if name.endswith(('.attn', '.embed.norm', '.embed.conv')):
            module.register_forward_hook(lambda m, args, out, name=name: seen.update({name: out}))
    images = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        model(images)
        fast = {name: out.clone() for name, out in seen.items()}
        seen.clear()
        with attention_way('reference'):
            model(images)
    assert len(fast) == 8 + 2 * 3
    torch.testing.assert_close(fast, seen, rtol=1e-3, atol=1e-4)


# inference computes in place, in strips and in chunks, and folds norms, but never what a hook sees
SEEN = ('embed.conv1', 'embed.norm2', 'embed.conv3', 'embed.proj.0', 'embed.proj.4', 'embed.proj.6')
SEEN += ('attn.q', 'attn.kv', 'attn.sr', 'attn.sr_norm', 'attn.qkv', 'attn.proj', 'norm1', 'norm2')
SEEN += ('mlp', 'mlp.fc1', 'mlp.fc2', 'pa_conv', 'up.0', 'up_norm')


@pytest.mark.parametrize('everywhere', [False, True], ids=['hooks of modules', 'global hooks'])
@pytest.mark.parametrize('family', [ResT, ResTV2, ResFormer])
def test_hooks_see_whole_maps_that_are_not_changed_afterwards(
    family: type[PyramidBackbone], everywhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spatial_reduction, '_CHUNK_ELEMENTS', 1000)
    monkeypatch.setattr(strips, '_STRIP_ELEMENTS', 1000)
    model = family().eval()
    images = torch.randn(1, 3, 72, 40)
    with torch.no_grad():
        expected = model(images)
    watched = [m for name, m in model.named_modules() if name.endswith(SEEN)]
    seen = {module: [] for module in watched}

    def look(module: nn.Module, args: tuple, out: torch.Tensor) -> None:
        if module in seen:
            seen[module].append([(t, t.clone()) for t in (*args, out)])

    if everywhere:
        handles = [nn.modules.module.register_module_forward_hook(look)]
    else:
        handles = [module.register_forward_hook(look) for module in watched]
    with torch.no_grad():
        actual = model(images)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
    assert {len(calls) for calls in seen.values()} == {1}
    for [tensors] in seen.values():
        assert all(torch.equal(then, now) for then, now in tensors)


@pytest.mark.parametrize('pre', [False, True])
@pytest.mark.parametrize('family', [ResT, ResTV2, ResFormer])
def test_backward_hooks_are_called_and_change_nothing(
    family: type[PyramidBackbone], pre: bool
) -> None:
    model = family(drop_path_rate=0.0).train()
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
    watched = {name: m for name, m in model.named_modules() if name.endswith(SEEN)}
    for name, module in watched.items():
        kind = 'register_full_backward_pre_hook' if pre else 'register_full_backward_hook'
        getattr(module, kind)(lambda *args, name=name: called.append(name))
    actual = gradients()
    assert sorted(called) == sorted(watched)
    # that of a bias in front of a BatchNorm or a softmax is zero but for rounding
    largest = max(float(gradient.abs().max()) for gradient in expected)
    for a, b in zip(actual, expected, strict=True):
        scale = max(float(b.abs().max()), 1e-3 * largest)
        torch.testing.assert_close(a / scale, b / scale, rtol=2e-3, atol=2e-3)
    assert sum(bool(g.abs().max() > 1e-3 * largest) for g in expected) > len(expected) / 2


def test_what_an_identity_returns_is_not_overwritten() -> None:
    position = PixelAttention(96)
    position.pa_conv = nn.Identity()
    block = ResTV2().stages[0].blocks[0].eval()
    block.norm1 = nn.Identity()
    for module in (position, block):
        x = torch.randn(1, 6, 6, 96)
        copy = x.clone()
        with torch.no_grad():
            out = module(x)
        assert torch.equal(x, copy)
        torch.testing.assert_close(out, module(copy), rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize('name', ['mlp.fc1', 'mlp.fc2', 'attn.q', 'attn.up.0'])
def test_hooks_that_make_weights_are_called_in_training(name: str) -> None:
    block = ResTV2().stages[0].blocks[0].train()
    prune.random_unstructured(block.get_submodule(name), 'weight', 0.5)
    for _ in range(2):
        block(torch.randn(1, 6, 6, 96)).square().mean().backward()
    assert block.get_submodule(name).weight_orig.grad.any()


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


@pytest.mark.parametrize('family', [ResT, ResTV2])
def test_attention_in_chunks_is_that_of_the_whole_map(
    family: type[PyramidBackbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spatial_reduction, '_CHUNK_ELEMENTS', 1000)
    block = family().stages[0].blocks[0]
    x = torch.randn(2, 21, 13, block.norm1.normalized_shape[0])
    expected = block.attn.attend_plainly(x, block.norm1)
    with torch.no_grad():
        actual = block.attn._attend_in_chunks(block.norm1(x))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_the_backward_pass_does_not_project_again() -> None:
    block = ResTV2(out_indices=(0,)).stages[0].blocks[0]
    loss = block(torch.randn(1, 16, 16, 96)).square().sum()
    called = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.append(str(func))
            return func(*args, **(kwargs or {}))

    with Watch():
        loss.backward()
    assert 'mmrest.linear.default' not in called
    assert 'aten.native_layer_norm.default' in called  # but normalises again


def test_a_hook_sees_true_values_in_the_backward_pass_too() -> None:
    block = ResTV2(out_indices=(0,)).stages[0].blocks[0]
    seen = []
    block.attn.q.register_forward_hook(lambda module, args, out: seen.append(out.detach().clone()))
    block(torch.randn(1, 16, 16, 96)).square().sum().backward()
    first, again = seen
    torch.testing.assert_close(again, first)


def test_pixel_attention_keeps_nothing_but_its_input() -> None:
    x = torch.randn(1, 8, 8, 4, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        PixelAttention(4)(x).sum().backward()
    assert not [t for t in kept if t.numel() >= x.numel() and t.data_ptr() != x.data_ptr()]


def test_doubling_is_the_transposed_convolution() -> None:
    double = Double(6)
    x = torch.randn(2, 6, 5, 7, requires_grad=True)
    wanted = [x, *double.parameters()]
    results = []
    for compute in (double, lambda x: nn.ConvTranspose2d.forward(double, x)):
        out = compute(x)
        results.append([out, *torch.autograd.grad(out.square().sum(), wanted)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
