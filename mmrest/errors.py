"""Errors that are the user's to mend: a command line shows their text without a traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something that was given is wrong; the text names it and says what to do."""


class Interrupted(Exception):
    """A signal has ended a run in order.

    Attributes:
        signal: Its number.
    """

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.signal = number


@contextmanager
def clear_errors() -> Iterator[None]:
    """Show an :class:`InputError` as one text, without a traceback, and exit with status 1.

    A run that a signal ends has the status that shells give it, 128 and the signal's number.
    """
    try:
        yield
        sys.stdout.flush()
    except InputError as error:
        sys.exit(f'error: {error}')
    except Interrupted as interruption:
        print(interruption, file=sys.stderr)
        sys.exit(128 + interruption.signal)
    except KeyboardInterrupt:
        print('ended by SIGINT', file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # nobody reads on, `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def list_some(names: Iterable[object], most: int = 12) -> str:
    """The first names, and how many more there are."""
    names = [str(name) for name in names]
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more
