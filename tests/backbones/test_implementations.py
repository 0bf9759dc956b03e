"""One computation, however it is carried out: reference, blockwise, compiled, exported."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from mmrest.backbones import PyramidBackbone
from mmrest.errors import InputError
from mmrest.ops import blockwise, use_implementation
from mmrest.ops.cpu import mlp
from tests.backbones.families import ROWS, assert_close, build_tiny, randomize, step

# image sizes that are and are not multiples of everything
SIZES = [(64, 96), (65, 97), (33, 70), (128, 64), (72, 97), (68, 80)]
CASES = {family.__name__: (family, {}) for family in ROWS} | {
    f'{family.__name__} {name}': (family, options)
    for family, row in ROWS.items()
    for name, options in row.forms.items()
}
cases = pytest.mark.parametrize('case', CASES)
# whether windows divide the map is a part of a program, or the rows of joint positions are
ONE_SIZE = {'ResFormer in windows', 'TwinsSVT masked', 'MViTV2 joint'}
# a compiler takes a minute for what is a detail of a family
COMPILED_IN_EVERY_RUN = ('ResT',)
EXPORTED_IN_EVERY_RUN = ('ResT',)


def mark_slow(*values: object, slow: bool) -> object:
    return pytest.param(*values, marks=[pytest.mark.slow] if slow else [])


def build(case: str, **more: Any) -> PyramidBackbone:
    family, options = CASES[case]
    return randomize(build_tiny(family, **options, **more))


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# a BatchNorm's gradients are small differences of large numbers
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-3), (torch.double, 1e-9)])
@pytest.mark.parametrize('implementation', ['auto', 'blockwise'])
@cases
def test_implementations_agree_in_outputs_and_all_gradients(
    case: str,
    implementation: str,
    dtype: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blockwise, '_BLOCK_ELEMENTS', 100)
    monkeypatch.setattr(blockwise, '_FEWEST_QUERIES', 1)
    monkeypatch.setattr(mlp, '_CHUNK_ELEMENTS', 1000)
    monkeypatch.setattr(mlp, '_FEWEST_TOKENS', 8)
    model = build(case).train().to(dtype)
    images = torch.randn(2, 3, 65, 97, dtype=dtype)
    with use_implementation('reference'):
        expected = step(model, images)
        model.eval()
        expected_maps = model(images)
    with use_implementation(implementation), torch.no_grad():
        assert_close(list(model(images)), list(expected_maps), tolerance)
    with use_implementation(implementation):
        assert_close(step(model.train(), images), expected, tolerance)


@pytest.mark.parametrize('implementation', ['auto', 'blockwise'])
@cases
def test_second_derivatives_are_refused_or_right(case: str, implementation: str) -> None:
    model = build(case).eval()
    images = torch.randn(1, 3, 65, 97, requires_grad=True)

    def penalize() -> Tensor:
        images.grad = None
        maps = model(images)
        mean = sum(m.mean() for m in maps)
        (slope,) = torch.autograd.grad(mean, images, create_graph=True)
        (slope.square().sum() + mean).backward()
        return images.grad

    with use_implementation('reference'):
        expected = penalize()
    with use_implementation(implementation):
        try:
            assert_close([penalize()], [expected])
        except InputError as error:
            if 'no second derivatives' not in str(error):
                raise


@cases
def test_vectorized_over_batches(case: str) -> None:
    model = build(case).eval()
    images = torch.randn(2, 1, 3, 65, 97)
    expected = [torch.stack(level) for level in zip(*map(model, images), strict=True)]
    assert_close(list(torch.func.vmap(model)(images)), expected)


@pytest.mark.parametrize(
    ('case', 'training'),
    [
        mark_slow(case, mode, slow=not mode or case not in COMPILED_IN_EVERY_RUN)
        for case in CASES
        for mode in (False, True)
    ],
)
def test_compiled_as_one_graph_for_all_sizes(case: str, training: bool) -> None:
    model = build(case).train(training)
    counter = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for size in SIZES[1:2] if case in ONE_SIZE else SIZES:
        images = torch.randn(2, 3, *size)
        if training:
            # sums of gradients in another order
            assert_close(step(model, images, compiled), step(model, images), 1e-3)
        else:
            with torch.no_grad():
                assert_close(list(compiled(images)), list(model(images)))
    # one for all sizes, and one that the first call tries
    assert counter.frame_count <= 2


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('g++'), reason='torch.compile needs a C++ compiler')
def test_compiled_to_machine_code() -> None:
    model = build('ResT').eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for size in SIZES[:2]:
            images = torch.randn(1, 3, *size)
            assert_close(list(compiled(images)), list(model(images)))


@pytest.mark.parametrize(
    'case', [mark_slow(case, slow=case not in EXPORTED_IN_EVERY_RUN) for case in CASES]
)
def test_exported_for_all_sizes(case: str) -> None:
    model = build(case).eval()
    varying = {} if case in ONE_SIZE else dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(
        model, (torch.randn(2, 3, 64, 96),), dynamic_shapes=dict(images=varying), strict=False
    )
    sizes = [(2, 64, 96)] if case in ONE_SIZE else [(2, 64, 96), (1, 65, 97), (3, 40, 70)]
    # what other runtimes know
    targets = [str(node.target) for node in program.graph.nodes if node.op == 'call_function']
    assert not [target for target in targets if 'mmrest' in target]
    for batch, height, width in sizes:
        images = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            assert_close(list(program.module()(images)), list(model(images)))
