"""How long it still takes: a line on standard error now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator
from typing import TypeVar

_SECONDS_BETWEEN_REPORTS = 5.0

Item = TypeVar('Item')


def with_time_left(items: Collection[Item], what: str) -> Iterator[Item]:
    """Go through items and say how many are done, and about when the others will be.

    Nothing is said of what takes less than five seconds.

    Args:
        items: About as long as each other.
        what: They are, for the line.

    Yields:
        Each item.
    """
    start = reported = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if done < len(items) and now - reported >= _SECONDS_BETWEEN_REPORTS:
            reported = now
            left = describe_seconds((now - start) / done * (len(items) - done))
            print(f'{done} of {len(items)} {what}, about {left} left', file=sys.stderr, flush=True)


def describe_seconds(seconds: float) -> str:
    """``40 s``, ``5 min`` or ``2 h 10 min``."""
    if seconds < 89.5:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    if minutes < 90:
        return f'{minutes} min'
    return f'{minutes // 60} h' + (f' {minutes % 60} min' if minutes % 60 else '')
