from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmrest.ops import dispatch, emsa, use_implementation
from mmrest.ops.triton import emsa as emsa_module
from mmrest.ops.triton import kernels
from mmrest.ops.triton.emsa import launch_settings, shared_memory, why_not_triton
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(not emsa_module.triton, reason='the kernels need triton.knobs')

INTEGERS = ('queries', 'keys', 'part_rows')
LIKE_INPUTS = ('q', 'k', 'v', 'grad', 'dq')


def test_the_kernels_equal_the_reference_in_the_interpreter() -> None:
    result = subprocess.run(
        [
            sys.executable,
            '-m',
            'pytest',
            '-p',
            'no:cacheprovider',
            'tests/ops/triton/interpreted.py',
        ],
        cwd=ROOT,
        env={**os.environ, 'TRITON_INTERPRET': '1'},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-4000:]
    # a run that collects nothing ends with another status
    assert 'skipped' not in result.stdout


def compile_kernel(name: str, q: torch.Tensor) -> Any:
    """Compiled for Hopper, which needs no GPU."""
    kernel = getattr(kernels, name)
    settings = launch_settings(q)
    options = {key: settings.pop(key) for key in ('num_warps', 'num_stages')}
    dtype = {torch.float32: '*fp32', torch.bfloat16: '*bf16'}[q.dtype]
    signature = {}
    for argument in kernel.arg_names:
        if argument in settings:
            signature[argument] = 'constexpr'
        elif argument.endswith('_strides'):
            signature[argument] = ('i32',) * 3
        elif argument in INTEGERS:
            signature[argument] = 'i32'
        else:
            signature[argument] = dtype if argument in LIKE_INPUTS else '*fp32'
    signature.update({'widened': 'fp32'} if 'widened' in signature else {})
    source = ASTSource(fn=kernel, signature=signature, constexprs=settings)
    return triton.compile(source, target=GPUTarget('cuda', 90, 32), options=options)


@pytest.mark.parametrize(
    ('heads', 'width', 'dtype'),
    [(2, 64, torch.bfloat16), (4, 96, torch.bfloat16), (2, 64, torch.float32)],
    ids=str,
)
@pytest.mark.parametrize('name', ['forward', 'query_gradient', 'key_gradient'])
def test_the_kernels_compile_for_a_gpu_and_fit_into_it(
    name: str, heads: int, width: int, dtype: torch.dtype
) -> None:
    q = torch.empty(1, heads, 5, width, dtype=dtype)
    compiled = compile_kernel(f'{name}_kernel', q)
    assert compiled.asm['cubin']
    assert compiled.metadata.shared <= shared_memory(q)


def test_says_why_it_cannot_serve() -> None:
    q = torch.randn(1, 2, 4, 8)
    assert 'on cpu, not on a GPU' in why_not_triton(q, q)


def test_it_is_used_on_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for tensors that the kernels could take."""
    monkeypatch.setattr(dispatch, 'why_not_triton', lambda q, v: '')
    q = torch.randn(1, 2, 4, 8, dtype=torch.bfloat16)
    assert dispatch.choose_emsa(q, q, q) == 'blockwise'
    with use_implementation('triton'):
        assert dispatch.choose_emsa(q, q, q) == 'triton'


@pytest.mark.parametrize(
    ('heads', 'width', 'dtype', 'reason'),
    [
        (9, 8, torch.float32, 'more than 8 heads'),
        (2, 256, torch.float32, 'or 128 channels a head'),
        (2, 8, torch.float64, 'float64'),
        (8, 128, torch.float32, 'bytes of shared memory'),
    ],
)
def test_says_what_the_kernels_do_not_take(
    heads: int, width: int, dtype: torch.dtype, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emsa_module, '_INTERPRETED', True)
    q = torch.empty(1, heads, 4, width, dtype=dtype)
    assert reason in why_not_triton(q, q)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('heads', [2, 4, 8])
def test_the_kernels_equal_the_reference_on_a_gpu(heads: int, dtype: torch.dtype) -> None:
    sizes = [(2, heads, n, 64) for n in (700, 150, 150)] + [(heads, heads), (heads,)]
    args = [torch.randn(size, device='cuda').to(dtype).double().requires_grad_() for size in sizes]
    given = [
        t.detach().to(dtype if i < 3 else torch.float32).requires_grad_()
        for i, t in enumerate(args)
    ]
    with use_implementation('reference'):
        expected = emsa(*args)
    with use_implementation('triton'):
        actual = emsa(*given)
    direction = torch.randn_like(actual)
    expected_grads = torch.autograd.grad(expected, args[:4], direction.double())
    grads = torch.autograd.grad(actual, given[:4], direction)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    for a, b in zip([actual, *grads], [expected, *expected_grads], strict=True):
        assert float((a.double() - b).abs().max() / b.abs().max()) < tolerance
