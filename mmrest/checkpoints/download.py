"""Fetching large files: what was cut off goes on, and a file is there only when it is whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from mmrest.checkpoints.errors import CheckpointNotFoundError

_BLOCK = 2**20
_SECONDS_BETWEEN_REPORTS = 5.0


def download(url: str, target: Path) -> None:
    """Fetch a file by HTTP, or go on where it was cut off.

    Mmengine's file backends read a file as a whole into memory, and begin anew.

    Args:
        url: Of the file.
        target: Where it goes; what is there of it meanwhile is ``TARGET.part``.

    Raises:
        CheckpointNotFoundError: It cannot be fetched, or is no checkpoint.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f'{target}.lock'):
        if target.exists():  # another process has fetched it meanwhile
            return
        part, tag = Path(f'{target}.part'), Path(f'{target}.part.etag')
        try:
            total = _continue(url, part, tag)
        except (OSError, HTTPException) as error:
            raise CheckpointNotFoundError(_explain(url, error, part)) from error
        size = part.stat().st_size
        if total is not None and size != total:
            raise CheckpointNotFoundError(
                f'{url} was cut off at {size} of {total} bytes; the same command goes on there'
            )
        _finish(part, target, url)
        tag.unlink(missing_ok=True)


def download_from_drive(file_id: str, target: Path) -> None:
    """Fetch a file of Google Drive, which asks for more than a request, by gdown.

    Args:
        file_id: On Google Drive.
        target: Where it goes.

    Raises:
        CheckpointNotFoundError: gdown is not installed, or cannot fetch it.
    """
    try:
        import gdown
    except ImportError as error:
        raise CheckpointNotFoundError(
            'gdown, which fetches files of Google Drive, is not installed (pip install gdown)'
        ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f'{target}.lock'):
        if target.exists():
            return
        part = Path(f'{target}.part')
        try:
            fetched = gdown.download(id=file_id, output=str(part), resume=True)
        except Exception as error:  # gdown's errors have no common class in all of its versions
            raise CheckpointNotFoundError(f'gdown cannot fetch it: {error}') from error
        if not fetched:
            raise CheckpointNotFoundError('gdown cannot fetch it')
        _finish(part, target, f'file {file_id} of Google Drive')


def record_checksum(path: Path) -> None:
    """Write a file's SHA-256 beside it, as ``sha256sum`` does."""
    Path(f'{path}.sha256').write_text(f'{sha256_of(path)}  {path.name}\n')


def is_same(path: Path) -> bool:
    """True if a file's SHA-256 is what was recorded; where nothing was, it is recorded now."""
    recorded = Path(f'{path}.sha256')
    if not recorded.exists():
        with contextlib.suppress(OSError):  # a folder that others look after
            record_checksum(path)
        return True
    return recorded.read_text().split()[:1] == [sha256_of(path)]


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _continue(url: str, part: Path, tag: Path) -> int | None:
    """Fetch what is missing of a file; its whole size, if the server tells."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={'User-Agent': 'mmrest'})
    if have and tag.exists():
        request.add_header('Range', f'bytes={have}-')
        request.add_header('If-Range', tag.read_text())
    try:  # the addresses are the package's own, in published.csv
        response = urllib.request.urlopen(request, timeout=60)  # nosec B310
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing
            return have
        raise
    with response:
        goes_on = response.status == 206
        if etag := response.headers.get('ETag'):
            tag.write_text(etag)
        length = response.headers.get('Content-Length')
        total = None if length is None else int(length) + (have if goes_on else 0)
        with open(part, 'ab' if goes_on else 'wb') as file:
            _copy(response, file, have if goes_on else 0, total, part.name.removesuffix('.part'))
    return total


def _copy(response: HTTPResponse, file: BinaryIO, done: int, total: int | None, name: str) -> None:
    start, begin, reported = time.monotonic(), done, time.monotonic()
    while block := response.read(_BLOCK):
        file.write(block)
        done += len(block)
        now = time.monotonic()
        if now - reported >= _SECONDS_BETWEEN_REPORTS:
            reported = now
            speed = (done - begin) / (now - start)
            of = f' of {total / 1e6:.0f}' if total else ''
            left = f', {(total - done) / speed:.0f} s left' if total else ''
            print(f'{name}: {done / 1e6:.0f}{of} MB, {speed / 1e6:.1f} MB/s{left}', file=sys.stderr)


def _finish(part: Path, target: Path, source: str) -> None:
    with open(part, 'rb') as file:
        head = file.read(64).lstrip()
    if not head or head.startswith(b'<'):
        part.unlink()
        what = 'a web page' if head else 'empty'
        raise CheckpointNotFoundError(f'{source} is {what}, not a checkpoint')
    part.replace(target)


def _explain(url: str, error: Exception, part: Path) -> str:
    have = part.stat().st_size if part.exists() else 0
    kept = f'; {have} bytes are kept, and the same command goes on there' if have else ''
    return f'{url} cannot be fetched ({error}){kept}'
