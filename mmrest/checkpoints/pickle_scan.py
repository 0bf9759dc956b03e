"""A look at a pickle before it is read: does it grow as it is walked through?

A pickle may hold one thing in many places. So a few hundred bytes are a tuple of 2^60 items, and
whoever takes its hash, or names it in an error, does not come back. And keys of a dictionary can be
chosen so that all have one hash. Nothing of this is in a checkpoint, and all of it can be seen from
the opcodes alone, of which no one is carried out here.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

TOO_MUCH = 'more than a file of this size holds'
# A checkpoint has few things in several places, or in calls within calls: a tensor's in three.
_TIMES_THE_OPCODES = 8
_AT_LEAST = 2**22
# A dictionary looks at each of its keys of one hash: of so many, that takes seconds.
_MOST_OF_KEYS = 30_000
# Numbers can be chosen so that a dictionary looks at many for each; of those from 0 on it cannot.
_NUMBERS_APART = 2**14


class _Atom:
    """Text, a number, ...: what has nothing in it."""


class _Global(_Atom):
    """A class or function by its name."""


_ATOM, _GLOBAL, _MARK = _Atom(), _Global(), _Atom()
_Symbol = _Atom | list  # a list stands for whatever holds others, or takes long to be hashed


def require_bounded(file: BinaryIO, pickles: int = 1) -> None:
    """Refuse what takes much longer to walk through, to hash or to write down than to read.

    Args:
        file: At the beginning of a pickle.
        pickles: So many follow each other.

    Raises:
        pickle.UnpicklingError: It does, or calls what is no global.
        Exception: The pickle is damaged; pickletools and the stack raise many kinds.
    """
    for _ in range(pickles):
        _Scan().run(file)


def has_its_own_hash(key: Any) -> bool:
    """True for a key of a dictionary that shares its hash with few others, whatever they are."""
    if isinstance(key, int):
        return 0 <= key < _NUMBERS_APART
    return isinstance(key, str | None)  # that of text is another one in each process


class _Scan:
    """The stack machine of a pickle, with symbols in the place of objects."""

    def __init__(self) -> None:
        self.stack: list[_Symbol] = []
        self.memo: dict[int, _Symbol] = {}
        self.opcodes = 0
        self.walked = 0
        self.in_keys = 0

    def run(self, file: BinaryIO) -> None:
        for opcode, argument, _ in pickletools.genops(file):
            self.opcodes += 1
            self._step(opcode, argument)

    def _step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        name, stack = opcode.name, self.stack
        if name in ('PUT', 'BINPUT', 'LONG_BINPUT'):
            self.memo[argument] = stack[-1]
        elif name == 'MEMOIZE':
            self.memo[len(self.memo)] = stack[-1]
        elif name in ('GET', 'BINGET', 'LONG_BINGET'):
            stack.append(self.memo[argument])
        elif name == 'DUP':
            stack.append(stack[-1])
        elif name == 'MARK':
            stack.append(_MARK)
        elif name == 'STOP':
            self._spend(stack.pop())
        else:
            taken = self._take(opcode)
            if opcode.stack_after:
                stack.append(self._made(name, argument, taken))

    def _take(self, opcode: pickletools.OpcodeInfo) -> list[_Symbol]:
        """Pop what an opcode takes: a number of symbols, or all down to the mark and some below."""
        before = opcode.stack_before
        taken: list[_Symbol] = []
        if pickletools.markobject in before:
            while (symbol := self.stack.pop()) is not _MARK:
                taken.append(symbol)
            before = before[: before.index(pickletools.markobject)]
        taken += [self.stack.pop() for _ in before]
        return taken[::-1]

    def _made(self, name: str, argument: Any, taken: list[_Symbol]) -> _Symbol:
        """What an opcode pushes."""
        if name in ('GLOBAL', 'STACK_GLOBAL', 'EXT1', 'EXT2', 'EXT4'):
            return _GLOBAL
        if name in ('REDUCE', 'NEWOBJ', 'NEWOBJ_EX', 'OBJ', 'INST', 'BINPERSID'):
            return self._called(name, taken)
        if name in ('APPEND', 'APPENDS', 'ADDITEMS', 'SETITEM', 'SETITEMS', 'BUILD'):
            container, *items = taken
            if name.startswith('SETITEM'):
                self._use_as_keys(items[::2])
            elif name == 'ADDITEMS':
                self._use_as_keys(items)
            if isinstance(container, list):
                container.extend(items)
            return container
        if name in ('DICT', 'FROZENSET'):
            self._use_as_keys(taken[::2] if name == 'DICT' else taken)
        if isinstance(argument, int | float) and not has_its_own_hash(argument):
            bits = argument.bit_length() if isinstance(argument, int) else 64
            return [_ATOM] * (bits // 64 + 1)
        may_be_filled = name in ('EMPTY_LIST', 'EMPTY_DICT', 'EMPTY_SET', 'LIST', 'DICT')
        return taken if taken or may_be_filled else _ATOM

    def _called(self, name: str, taken: list[_Symbol]) -> _Symbol:
        """The result of a call: its arguments are looked at, since errors would write them down."""
        if name in ('BINPERSID', 'INST'):
            arguments = taken
        else:
            function, *arguments = taken
            if function is not _GLOBAL:
                raise pickle.UnpicklingError('Trying to call reduce for what is no global')
        self._spend(arguments)
        return arguments

    def _use_as_keys(self, keys: Iterable[_Symbol]) -> None:
        for key in keys:
            if isinstance(key, list):
                self.in_keys += _walk(key, _MOST_OF_KEYS)
                if self.in_keys > _MOST_OF_KEYS:
                    raise pickle.UnpicklingError(TOO_MUCH)

    def _spend(self, symbol: _Symbol) -> None:
        most = _TIMES_THE_OPCODES * self.opcodes + _AT_LEAST
        self.walked += _walk(symbol, most - self.walked)
        if self.walked > most:
            raise pickle.UnpicklingError(TOO_MUCH)


def _walk(root: _Symbol, most: int) -> int:
    """Items met in walking through, each as often as met; it ends at cycles, or past ``most``.

    So do Python's ``repr`` and ``hash``, and what writes JSON or YAML. Here what is met again is
    not walked through again, unless it leads into a cycle, where the count depends on the path.
    """
    count = 0
    sizes: dict[int, int | None] = {}  # None of a list on the path
    path = [_Visit(0, iter([root]), 0)]
    while path:
        visit = path[-1]
        for item in visit.items:
            count += 1
            if count > most:
                return count
            if not isinstance(item, list):
                continue
            if id(item) not in sizes:
                sizes[id(item)] = None
                path.append(_Visit(id(item), iter(item), count))
                break
            if (size := sizes[id(item)]) is None:
                visit.meets_cycle = True
            else:
                count += size
        else:
            path.pop()
            sizes[visit.owner] = count - visit.count_before
            if visit.meets_cycle:
                del sizes[visit.owner]
                if path:
                    path[-1].meets_cycle = True
    return count


@dataclass(slots=True)
class _Visit:
    """A list on the path of a walk."""

    owner: int
    items: Iterator[_Symbol]
    count_before: int
    meets_cycle: bool = False
