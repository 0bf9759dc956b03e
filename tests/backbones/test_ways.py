"""One computation, however it is carried out: reference, blockwise, compiled, exported."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from mmrest import ResFormer, ResT, ResTV2
from mmrest.backbones import PyramidBackbone, spatial_reduction
from mmrest.ops import attention_way, blockwise, mlp, strips
from tests.backbones.test_pyramid import FAMILIES, randomize

SMALL = dict(
    embed_dims=(8, 16), depths=(1, 1), num_heads=(1, 2), sr_ratios=(4, 2), mlp_ratios=(4, 4)
)
PLAIN = dict(embed_dims=16, depth=2, num_heads=2, mlp_ratio=4)
# image sizes that are and are not multiples of everything
SIZES = [(64, 96), (65, 97), (33, 70), (128, 64)]
CASES: dict[str, tuple[type[PyramidBackbone], dict[str, Any]]] = {
    'ResT': (ResT, dict(arch=SMALL, out_indices=(0, 1))),
    'ResTV2': (ResTV2, dict(arch=SMALL, out_indices=(0, 1))),
    'ResFormer': (ResFormer, dict(arch=PLAIN)),
    'ResFormer in windows': (
        ResFormer,
        dict(arch=dict(PLAIN, depth=1), window_size=3, global_blocks=()),
    ),
}
cases = pytest.mark.parametrize('case', CASES)


def build(case: str) -> PyramidBackbone:
    family, options = CASES[case]
    return randomize(family(**options, drop_path_rate=0.0))


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def step(model: nn.Module, run: Callable[[Tensor], tuple[Tensor, ...]], images: Tensor) -> list:
    """Outputs and all gradients of a training step."""
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    outputs = run(images)
    grads = torch.autograd.grad(
        sum(level.square().mean() for level in outputs), list(model.parameters())
    )
    model.load_state_dict(buffers, strict=False)  # BatchNorms have moved
    return [*outputs, *grads]


def assert_close(actual: list[Tensor], expected: list[Tensor], tolerance: float = 1e-4) -> None:
    for a, b in zip(actual, expected, strict=True):
        scale = max(b.abs().max().item(), 1e-2)
        torch.testing.assert_close(a / scale, b / scale, rtol=tolerance, atol=tolerance)


def test_every_family_is_tested() -> None:
    assert {family for family, _ in CASES.values()} == set(FAMILIES)


# a BatchNorm's gradients are small differences of large numbers
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-3), (torch.double, 1e-9)])
@pytest.mark.parametrize('way', ['auto', 'blockwise'])
@cases
def test_ways_agree_in_outputs_and_all_gradients(
    case: str, way: str, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, '_BLOCK_ELEMENTS', 100)
    monkeypatch.setattr(blockwise, '_FEWEST_QUERIES', 1)
    monkeypatch.setattr(mlp, '_CHUNK_ELEMENTS', 1000)
    monkeypatch.setattr(mlp, '_FEWEST_TOKENS', 8)
    monkeypatch.setattr(spatial_reduction, '_CHUNK_ELEMENTS', 1000)
    monkeypatch.setattr(strips, '_STRIP_ELEMENTS', 1000)
    model = build(case).train().to(dtype)
    images = torch.randn(2, 3, 65, 97, dtype=dtype)
    with attention_way('reference'):
        expected = step(model, model, images)
        model.eval()
        expected_maps = model(images)
    with attention_way(way), torch.no_grad():
        assert_close(list(model(images)), list(expected_maps), tolerance)
    with attention_way(way):
        assert_close(step(model.train(), model, images), expected, tolerance)


@pytest.mark.parametrize(
    ('case', 'training'),
    # windows are the slowest to trace, and are the same in inference
    [(case, mode) for case in CASES for mode in (False, True) if mode or 'windows' not in case],
)
def test_compiled_as_one_graph_for_all_sizes(case: str, training: bool) -> None:
    model = build(case).train(training)
    counter = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for size in SIZES[1:2] if 'windows' in case else SIZES:
        images = torch.randn(2, 3, *size)
        if training:
            # sums of gradients in another order
            assert_close(step(model, compiled, images), step(model, model, images), 1e-3)
        else:
            with torch.no_grad():
                assert_close(list(compiled(images)), list(model(images)))
    # one for multiples of the patch, one for other sizes, one more that the first call may try
    assert counter.frame_count <= 3


@pytest.mark.skipif(not shutil.which('g++'), reason='torch.compile needs a C++ compiler')
def test_compiled_to_machine_code() -> None:
    model = build('ResT').eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for size in SIZES[:2]:
            images = torch.randn(1, 3, *size)
            assert_close(list(compiled(images)), list(model(images)))


@cases
def test_exported_for_all_sizes(case: str) -> None:
    model = build(case).eval()
    if 'windows' in case:
        # how many windows there are is part of a program
        program = torch.export.export(model, (torch.randn(2, 3, 64, 96),))
        sizes = [(2, 64, 96)]
    else:
        any_size = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC}
        any_size[3] = torch.export.Dim.DYNAMIC
        program = torch.export.export(
            model, (torch.randn(2, 3, 64, 96),), dynamic_shapes=dict(images=any_size)
        )
        sizes = [(2, 64, 96), (1, 65, 97), (3, 40, 70)]
    for batch, height, width in sizes:
        images = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            assert_close(list(program.module()(images)), list(model(images)))
