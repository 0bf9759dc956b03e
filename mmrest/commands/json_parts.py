"""Parts of a JSON file without reading all of it.

COCO's annotations take ten seconds and gigabytes to parse; the first images and the categories are
all that a check needs.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_DECODER = json.JSONDecoder()
_WINDOW = 2**16  # bytes that are decoded at first
_CHUNK = 2**24  # bytes that are searched at once


def read_first(path: str | Path, key: str, most: int) -> list[dict[str, Any]] | None:
    """The first objects of the list that stands under ``key``.

    Args:
        path: A JSON file.
        key: Of its outermost object; where that has none, the first one anywhere counts.
        most: How many objects are wanted.

    Returns:
        None if there is no such list of objects; the file may be no JSON.
    """
    with open(path, 'rb') as file:
        if not file.read(1):
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            deeper, depth, counted = [], 0, 0
            for start in _lists_under(content, key):
                depth += _opened(content, counted, start)
                counted = start
                if depth != 2:  # of an image's own entry, for example
                    deeper.append(start)
                elif (objects := _decode_objects(content, start, most)) is not None:
                    return objects
            for start in deeper:
                if (objects := _decode_objects(content, start, most)) is not None:
                    return objects
    return None


def _opened(content: mmap.mmap, start: int, end: int) -> int:
    """How many brackets more are opened than closed; those in texts mostly come in pairs."""
    opened = 0
    for place in range(start, end, _CHUNK):
        chunk = content[place : min(place + _CHUNK, end)]
        opened += chunk.count(b'{') + chunk.count(b'[') - chunk.count(b'}') - chunk.count(b']')
    return opened


def is_list(path: str | Path) -> bool:
    """Whether the outermost value of a JSON file is a list."""
    with open(path, 'rb') as file:
        return file.read(64).lstrip()[:1] == b'['


def is_whole_json(path: str | Path) -> bool:
    """False if a file does not end as a JSON object or list does: it is cut short."""
    with open(path, 'rb') as file:
        file.seek(max(0, Path(path).stat().st_size - 1024))
        end = file.read().rstrip()
    return end[-1:] in (b'}', b']', b'')


def _lists_under(content: mmap.mmap, key: str) -> Iterator[int]:
    """Where the items of lists under ``key`` begin."""
    for match in re.finditer(rb'"%s"\s*:\s*\[' % re.escape(key.encode()), content):
        yield match.end()


def _decode_objects(content: mmap.mmap, start: int, most: int) -> list[dict[str, Any]] | None:
    objects: list[dict[str, Any]] = []
    while len(objects) < most:
        start = re.compile(rb'[\s,]*').match(content, start).end()
        head = content[start : start + 1]
        if head == b']':
            return objects
        if head != b'{':
            return None
        value, start = _decode_object(content, start)
        if value is None:
            return None
        objects.append(value)
    return objects


def _decode_object(content: mmap.mmap, start: int) -> tuple[dict[str, Any] | None, int]:
    """The object at ``start`` and where it ends; None if there is none that is whole."""
    size = _WINDOW
    while True:
        # a character that the window cuts in two is of no use yet
        text = content[start : start + size].decode('utf-8', errors='ignore')
        try:
            value, length = _DECODER.raw_decode(text)
            return value, start + len(text[:length].encode())
        except ValueError:
            if start + size >= len(content):
                return None, start
            size *= 8
