"""Errors that are the user's to mend: a command line shows their text without a traceback."""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

_ALIKE = 0.65  # of 1, from which a name may have been meant


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


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, which also names the option that was perhaps meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, which all parsing goes through."""
        self._given = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Show the message and exit with status 2."""
        known = self._option_string_actions
        if unknown := re.match(r'unrecognized arguments: (--[\w-]+)', message):
            message += did_you_mean(unknown[1], known)
        elif message.startswith('the following arguments are required'):
            words = [word for word in self._given if word.startswith('--') and word not in known]
            message += ''.join(
                f'; {word} is none of them{did_you_mean(word, known)}' for word in words[:1]
            )
        super().error(message)


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
    except SyntaxError as error:  # mmengine's, of whatever comes while it formats a config
        if not _comes_of_interruption(error):
            raise
        print('ended by SIGINT', file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # nobody reads on, `... | head`
        _write_nowhere()
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _write_nowhere()
        sys.exit(f'error: the output cannot be written: {error.strerror}')


def _comes_of_interruption(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _write_nowhere() -> None:
    """Python writes what is left of its output when it ends, and would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def did_you_mean(name: str, names: Iterable[str], most: int = 1) -> str:
    """Names that are spelled alike, as the end of a message; empty if there are none."""
    names = sorted(names)
    close = [other for other in names if other.lower() == name.lower()][:most]
    close = close or difflib.get_close_matches(name, names, n=most, cutoff=_ALIKE)
    return f'; did you mean {" or ".join(close)}?' if close else ''


def list_some(names: Iterable[object], most: int = 12) -> str:
    """The first names, and how many more there are."""
    names = [str(name) for name in names]
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more


def is_out_of_memory(error: BaseException) -> bool:
    """True of Python's error and of those of torch's allocators; not of an illegal access."""
    text = str(error)
    told = "can't allocate memory" in text or 'out of memory' in text
    return told or isinstance(error, MemoryError)
