"""What a training checkpoint may hold beyond tensors: plain data, rebuilt without its own code.

``torch.load(weights_only=True)`` runs nothing but the functions of an allow-list. numpy's own are
not fit for it: the state of a pickled dtype can declare raw bytes to be object pointers. So stand-
ins take the place of every global that mmengine's checkpoints name; they check what they are given,
and :func:`settle` puts real arrays and buffers where they stand.
"""

from __future__ import annotations

import argparse
import datetime
import math
import pathlib
import pickle
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch import Tensor
from torch import _weights_only_unpickler as torch_unpickler

from mmrest.checkpoints.pickle_scan import TOO_MUCH, has_its_own_hash

# of what is in a file, a dictionary for example takes more; and tensors may share memory
_TIMES_THE_FILE = 8
_BYTES_AT_LEAST = 2**27
_BYTES_OF_AN_ITEM = 8
_TIMES = (
    *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
)
_bytes_left: ContextVar[list[float]] = ContextVar('bytes_left')


def _spend(size: float) -> None:
    """Count what a file makes: what it names once it may have copied as often as it likes."""
    left = _bytes_left.get([math.inf])
    left[0] -= size
    if left[0] < 0:
        raise pickle.UnpicklingError(TOO_MUCH)


class _Dtype:
    """Stands in for ``numpy.dtype``: numbers, booleans and strings."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not isinstance(code, str) or not re.fullmatch(r'[biufcSU]\d+', code):
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL numpy.dtype of {code!r}')
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        _, byte_order, subtype, names, fields, *_ = state
        if subtype or names or fields:
            raise pickle.UnpicklingError('Unsupported global: GLOBAL numpy.dtype with fields')
        if byte_order in ('<', '>'):
            self.value = self.value.newbyteorder(byte_order)

    def settle(self) -> np.dtype:
        return self.value


class _Array:
    """Stands in for ``numpy.ndarray`` until its state is read."""

    array: np.ndarray

    def __init__(self, *_: Any) -> None:
        raise pickle.UnpicklingError('Unsupported global: GLOBAL numpy.ndarray called by the file')

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        order = 'F' if is_fortran else 'C'
        if not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError('Unsupported global: GLOBAL numpy.ndarray of objects')
        data = _as_bytes(data)
        _spend(len(data))
        self.array = np.frombuffer(data, dtype.value).reshape(shape, order=order).copy()

    def settle(self) -> np.ndarray:
        return self.array


class _History:
    """Stands in for mmengine's ``HistoryBuffer``, whose pickle also carries its class's methods."""

    state: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state

    def settle(self) -> HistoryBuffer:
        history, counts = (settle(self.state[name]) for name in ('_log_history', '_count_history'))
        for values in (history, counts):
            # of texts each would take as much as the longest
            if not isinstance(values, np.ndarray) or values.dtype.kind not in 'biuf':
                raise pickle.UnpicklingError(
                    'Unsupported global: GLOBAL HistoryBuffer of no numbers'
                )
            _spend(values.nbytes)
        return HistoryBuffer(history, counts, self.state['max_length'])


def _reconstruct(subtype: Any, shape: Any, code: Any) -> _Array:
    return _Array.__new__(_Array)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError('Unsupported global: GLOBAL numpy.ndarray of objects')
    _spend(len(data))
    return np.frombuffer(data, dtype.value).reshape(shape, order=order).copy()


def _scalar(dtype: Any, data: Any) -> np.generic:
    data = _as_bytes(data)
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
        raise pickle.UnpicklingError('Unsupported global: GLOBAL numpy.scalar of an object')
    _spend(dtype.value.itemsize)
    return np.frombuffer(data, dtype.value, count=1)[0]


def _as_bytes(data: Any) -> Any:
    """What Python 2 wrote for bytes is read as text."""
    return data.encode('latin1') if isinstance(data, str) else data


class _OneCycle:
    """Stands in for mmengine's ``OneCycleParamScheduler``, whose state names a method of it."""

    def __new__(cls) -> Any:
        raise pickle.UnpicklingError('Unsupported global: GLOBAL OneCycleParamScheduler called')


def _method(owner: Any, name: str) -> Any:
    """Stands in for ``getattr``, with which two classes of mmengine name their own methods."""
    if owner is _OneCycle and name in ('_annealing_cos', '_annealing_linear'):
        return getattr(OneCycleParamScheduler, name)  # of numbers, gives a number
    if owner is not _History or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError('Unsupported global: GLOBAL builtins.getattr')
    return name


def _encode(text: Any, encoding: Any) -> bytes:
    """Stands in for ``codecs.encode``."""
    if not isinstance(text, str) or encoding != 'latin1':
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL _codecs.encode to {encoding!r}')
    _spend(len(text))
    return text.encode('latin1')


def _bytearray(content: Any = b'', encoding: Any = 'latin-1') -> bytearray:
    """Stands in for ``bytearray``, of which a number claims so many bytes."""
    if isinstance(content, str) and encoding == 'latin-1':
        return bytearray(_encode(content, 'latin1'))
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError('Unsupported global: GLOBAL builtins.bytearray of a number')
    _spend(len(content))
    return bytearray(content)


def _copier(kind: Callable[..., Any]) -> Callable[..., Any]:
    """Stands in for a container, which a file could have copied without end."""

    def copy(content: Any = ()) -> Any:
        # a tensor has as many items as it claims
        is_plain = isinstance(content, dict | list | tuple | set | frozenset)
        if not is_plain or any(isinstance(item, Tensor) for item in content):
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {kind.__name__} of tensors')
        of_pairs = kind is OrderedDict and not isinstance(content, dict)
        keys = [item[0] for item in content] if of_pairs else content
        # that may all have one hash, so that each is compared with each
        may_collide = sum(not has_its_own_hash(key) for key in keys)
        _spend(_BYTES_OF_AN_ITEM * (len(content) + may_collide**2))
        return kind(content)

    return copy


# of torch's functions that make a tensor of others, those that make a view
_VIEWS = (
    *('_rebuild_tensor', '_rebuild_tensor_v2', '_rebuild_tensor_v3', '_rebuild_parameter'),
    *('_rebuild_parameter_with_state', '_rebuild_meta_tensor_no_storage'),
)
_rebuilders: list[Callable[..., Any]] = []


def _rebuilder(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Stands in for one of torch's functions, which may copy what an expanded tensor claims."""
    if name.endswith(_VIEWS):
        _rebuilders.append(function)
        return function

    def rebuild(*arguments: Any) -> Any:
        if 'from_type' in name and (not arguments or arguments[0] not in _rebuilders):
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {name} of another function')
        for argument in arguments:
            for part in argument if isinstance(argument, tuple | list) else [argument]:
                if isinstance(part, Tensor):
                    # the copy may be of the largest type
                    _spend(part.numel() * max(_BYTES_OF_AN_ITEM, part.element_size()))
        return function(*arguments)

    _rebuilders.append(rebuild)
    return rebuild


def _no_bytes(*content: Any) -> bytes:
    """Stands in for ``bytes``, which Python 3 calls where there are none; a number is a claim."""
    if content:
        raise pickle.UnpicklingError('Unsupported global: GLOBAL builtins.bytes of something')
    return b''


def _slice(*bounds: Any) -> slice:
    """Stands in for ``slice``, in which nobody looks for tensors."""
    if not all(bound is None or isinstance(bound, int) for bound in bounds):
        raise pickle.UnpicklingError('Unsupported global: GLOBAL builtins.slice of no numbers')
    return slice(*bounds)


def _path(*parts: Any) -> pathlib.PurePosixPath:
    """Stands in for ``PosixPath``, which joins and splits its parts."""
    if not all(isinstance(part, str) for part in parts):
        raise pickle.UnpicklingError('Unsupported global: GLOBAL pathlib.PosixPath of no texts')
    _spend(_BYTES_OF_AN_ITEM**2 * sum(map(len, parts)))  # a text for each letter, at most
    return pathlib.PurePosixPath(*parts)


def _default_dict(factory: Any = None) -> dict[Any, Any]:
    """Stands in for ``defaultdict``: what it holds, without what it would make."""
    if factory not in (None, _set, _ordered_dict, *_FACTORIES.values()):
        raise pickle.UnpicklingError('Unsupported global: GLOBAL collections.defaultdict of code')
    return {}


_set, _ordered_dict = _copier(set), _copier(OrderedDict)
# names in the place of classes, which nothing can call
_FACTORIES = {f'builtins.{name}': name for name in ('dict', 'float', 'int', 'list', 'str')}
_ALLOWED = {
    'mmengine.logging.history_buffer.HistoryBuffer': _History,
    'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler': _OneCycle,
    'builtins.getattr': _method,
    'numpy.dtype': _Dtype,
    'numpy.ndarray': _Array,
    # numpy 1 and 2 read each other's files
    'numpy.core.multiarray._reconstruct': _reconstruct,
    'numpy._core.multiarray._reconstruct': _reconstruct,
    'numpy.core.multiarray.scalar': _scalar,
    'numpy._core.multiarray.scalar': _scalar,
    'builtins.slice': _slice,
    # the arguments of a training script, as the authors' ImageNet files may hold them
    'argparse.Namespace': argparse.Namespace,
    'pathlib.PosixPath': _path,
}
# Arrays and plain data, and what Python 3 writes for bytes where Python 2 may read them.
_ALLOWED_IN_PICKLES = {
    **{name: stand_in for name, stand_in in _ALLOWED.items() if name.startswith('numpy.')},
    '_codecs.encode': _encode,
    '__builtin__.bytes': _no_bytes,
    'collections.OrderedDict': _copier(OrderedDict),
    'numpy.core.numeric._frombuffer': _from_buffer,
    'numpy._core.numeric._frombuffer': _from_buffer,
}
# in the place of what torch takes
_ALLOWED_IN_ARCHIVES = {
    '_codecs.encode': _encode,
    'builtins.bytearray': _bytearray,
    'builtins.bytes': _no_bytes,
    'builtins.frozenset': _copier(frozenset),
    'builtins.set': _set,
    'collections.Counter': _copier(Counter),
    'collections.OrderedDict': _ordered_dict,
    'collections.defaultdict': _default_dict,
    'torch.Size': _copier(torch.Size),
    **_FACTORIES,
    **{f'datetime.{kind.__name__}': kind for kind in _TIMES},
}
# torch's own files before they were archives begin with the pickle of this number.
_TORCH_MAGIC = b'\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19'
_allowed_here: ContextVar[dict[str, Any] | None] = ContextVar('allowed_here', default=None)


@contextmanager
def only_plain_data(file_size: float = math.inf) -> Iterator[None]:
    """In this context ``torch.load(weights_only=True)`` takes the stand-ins for plain data.

    What the process has allowed with ``torch.serialization.add_safe_globals`` does not count here,
    and other threads do not notice. What is loaded goes to :func:`settle`.

    Args:
        file_size: Bytes of the file; some times as much may be made of it.
    """
    _ask_the_context_first()
    tokens = (
        _allowed_here.set(_ALLOWED),
        _bytes_left.set([_TIMES_THE_FILE * file_size + _BYTES_AT_LEAST]),
    )
    try:
        yield
    finally:
        _allowed_here.reset(tokens[0])
        _bytes_left.reset(tokens[1])


@cache
def _ask_the_context_first() -> None:
    """Make torch's unpickler ask for the context's globals; elsewhere it goes on as it was.

    torch's own list is one for all threads: to change it, even for a moment, would change what
    somebody else is loading.
    """
    of_process = torch_unpickler._get_user_allowed_globals
    of_torch = torch_unpickler._get_allowed_globals
    bounded = {**of_torch(), **_ALLOWED_IN_ARCHIVES}
    rebuilt = {name: function for name, function in bounded.items() if '._rebuild_' in name}
    bounded |= {name: _rebuilder(name, function) for name, function in rebuilt.items()}

    def allowed() -> dict[str, Any]:
        here = _allowed_here.get()
        return of_process() if here is None else here

    def built_in() -> dict[str, Any]:
        return of_torch() if _allowed_here.get() is None else bounded

    torch_unpickler._get_user_allowed_globals = allowed
    torch_unpickler._get_allowed_globals = built_in


def is_plain_pickle(head: bytes) -> bool:
    """True for the beginning of a pickle that torch did not write, detectron2's for example."""
    return head[:1] == b'\x80' and _TORCH_MAGIC not in head


def read_plain_pickle(path: str) -> Any:
    """What a pickle of numpy arrays and plain data holds; it goes to :func:`settle`.

    Raises:
        pickle.UnpicklingError: It names anything else, or is damaged.
    """
    with open(path, 'rb') as file:
        return _PlainUnpickler(file, encoding='latin1').load()


class _PlainUnpickler(pickle._Unpickler):
    """In Python, since that in C lets a file put attributes on the classes that it names."""

    dispatch: ClassVar = {**pickle._Unpickler.dispatch}

    def load_build(self) -> None:
        """Only stand-ins of arrays and dtypes have a state."""
        owner = self.stack[-2]
        if not isinstance(owner, _Array | _Dtype):
            name = getattr(owner, '__name__', type(owner).__name__)
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {name} with a state')
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a global, as torch's unpickler takes it from the allow-list."""
        known = _ALLOWED_IN_PICKLES.get(f'{module}.{name}')
        if known is None:
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {module}.{name}')
        return known


def settle(value: Any, seen: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """Put real objects where stand-ins are, in place where a container can be changed.

    Args:
        value: What ``torch.load`` gave.
        seen: Identity of each container that is, or is being, settled -> itself and what became of
            it. A file may hold cycles, and one thing in more places than can be walked through.
    """
    seen = {} if seen is None else seen
    if isinstance(value, _Dtype | _Array | _History):
        return value.settle()
    if id(value) in seen:
        return seen[id(value)][1]
    if isinstance(value, Tensor):
        seen[id(value)] = (value, value)
        if value.layout == torch.strided and not value.is_meta:  # others hold less than their shape
            # more than its storage, if it is expanded
            _spend(value.numel() * value.element_size())
    elif isinstance(value, MutableMapping):
        seen[id(value)] = (value, value)
        for key in list(value):
            value[key] = settle(value[key], seen)
    elif isinstance(value, MutableSequence) and not isinstance(value, bytearray):
        seen[id(value)] = (value, value)
        value[:] = [settle(item, seen) for item in value]
    elif type(value) is tuple:
        settled = tuple(settle(item, seen) for item in value)
        seen[id(value)] = (value, settled)
        return settled
    elif isinstance(value, argparse.Namespace):
        settle(vars(value), seen)
    return value
