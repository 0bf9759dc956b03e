"""Which implementation serves a call: the one place that decides.

=============  =====================================================================================
request        what it means
=============  =====================================================================================
``auto``       the fastest that is known to be equal, for these tensors on this machine (default)
``reference``  the papers' equations, literally (:mod:`.reference`), and torch's own linear layers
``blockwise``  attention in blocks (:mod:`.blockwise`), on any device
``triton``     ResT's attention by kernels for GPUs (:mod:`.triton`), which have not run on one yet
=============  =====================================================================================

A request is the context's (:func:`use_implementation`), else that of the environment variable
``MMREST_ATTENTION``. Where torch looks into a computation (tracing, forward-mode AD,
``torch.func``), the reference serves, whatever is asked for: it sees through torch's own operators
alone. What is exported has torch's own, too: the reference's, or its fused attention.
"""

from __future__ import annotations

import os
from contextlib import ContextDecorator
from contextvars import ContextVar, Token

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mmrest.errors import InputError
from mmrest.ops.cpu import matmul
from mmrest.ops.tracing import is_exporting
from mmrest.ops.triton.emsa import why_not_triton

VARIABLE = 'MMREST_ATTENTION'
IMPLEMENTATIONS = ('auto', 'reference', 'blockwise', 'triton')

# Maps with fewer elements a head are better left to torch's fused attention;
# docs/scripts/ablation.py --constants tries others.
_SMALLEST_BLOCKWISE_MAP = 2**18

# each thread and asynchronous task has its own
_requested: ContextVar[str] = ContextVar(
    'implementation', default=os.environ.get(VARIABLE) or 'auto'
)


class use_implementation(ContextDecorator):
    """Within this context operators are computed by this implementation, in this thread alone.

    It may be entered again, as one that torch recomputes in is for each backward pass.

    Args:
        name: See the module's table.

    Raises:
        InputError: There is no such implementation; when it is entered.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._tokens: list[Token[str]] = []

    def __enter__(self) -> None:
        _check(self.name)
        self._tokens.append(_requested.set(self.name))

    def __exit__(self, *_: object) -> None:
        _requested.reset(self._tokens.pop())


def requested() -> str:
    """What the context or the environment asks for.

    Raises:
        InputError: There is no such implementation.
    """
    return _check(_in_this_context())


def choose_attention(q: Tensor, k: Tensor) -> str:
    """``'reference'``, ``'blockwise'`` or ``'sdpa'``, torch's own, for (B, heads, N, head_dim)."""
    name = requested()
    if _needs_reference(name, q, k):
        return 'reference'
    if is_exporting():  # other runtimes know torch's own operators alone
        return 'sdpa'
    if name == 'blockwise' or (name == 'auto' and _blockwise_beats_sdpa(q, k)):
        return 'blockwise'
    return 'sdpa'


def choose_attention_with_positions(q: Tensor, k: Tensor) -> str:
    """As :func:`choose_attention`; blocks need no further channels for the positions."""
    name = choose_attention(q, k)
    return 'blockwise' if name == 'sdpa' and requested() == 'auto' and uses_onednn(q) else name


def choose_emsa(q: Tensor, k: Tensor, v: Tensor) -> str:
    """``'reference'``, ``'blockwise'`` or ``'triton'``.

    Raises:
        InputError: Triton is asked for and cannot serve; the message says why.
    """
    name = requested()
    # other runtimes know torch's own operators alone
    if is_exporting() or _needs_reference(name, q, k):
        return 'reference'
    if name != 'triton':
        return 'blockwise'
    if obstacle := why_not_triton(q, v):
        raise InputError(
            f"{VARIABLE}, implementation 'triton': {obstacle}; take 'blockwise' or 'auto'"
        )
    return 'triton'


def is_reference(*tensors: Tensor) -> bool:
    """True if the reference serves a call of these tensors."""
    return _needs_reference(requested(), *tensors)


def needs_torchs_operators(x: Tensor) -> bool:
    """True for the reference, and for programs that are compiled or exported."""
    return is_exporting() or torch.compiler.is_compiling() or is_reference(x)


def uses_onednn(x: Tensor) -> bool:
    """True if linear layers and MLPs of ``x`` are computed by oneDNN's matmuls."""
    if is_exporting() or requested() == 'reference':
        return False
    if not torch.compiler.is_compiling() and (not x.numel() or _is_looked_into()):
        return False
    return matmul.has_onednn_for(x)


def _needs_reference(name: str, *tensors: Tensor) -> bool:
    if name == 'reference':
        return True
    if torch.compiler.is_compiling():
        return False
    return any(0 in t.shape for t in tensors) or _is_looked_into()


def _is_looked_into() -> bool:
    """True while something reads or differentiates torch's own operators one by one.

    Through other operators, forward-mode AD takes derivatives for zero without a word.
    """
    return (
        torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def _blockwise_beats_sdpa(q: Tensor, k: Tensor) -> bool:
    # torch's fused attention multiplies by MKL
    if matmul.FAST_MKL or not uses_onednn(q):
        return False
    # a compiled graph would hold for the smaller or for the larger maps alone
    return torch.compiler.is_compiling() or q.shape[2] * k.shape[2] >= _SMALLEST_BLOCKWISE_MAP


def _in_this_context() -> str:
    """The request; what is compiled keeps that which it was compiled under."""
    return _requested.get()


# What torch.compiler.assume_constant_result does. That imports the compiler, which takes a third of
# the time that `import mmrest` takes.
_in_this_context._dynamo_marked_constant = True


def _check(name: str) -> str:
    if name not in IMPLEMENTATIONS:
        raise InputError(
            f'implementation {name!r} (use_implementation or environment variable {VARIABLE}) is '
            f'unknown; it is one of {", ".join(IMPLEMENTATIONS)}'
        )
    return name
