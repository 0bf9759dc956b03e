"""The archives that torch writes, looked at from outside before anything in them is read."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from mmrest.checkpoints.errors import CheckpointError

# the records at an archive's end, and where each has the place of the directory
_END, _END_64, _LOCATOR_64 = b'PK\5\6', b'PK\6\6', b'PK\6\7'
_LENGTH_OF_END, _LENGTH_OF_LOCATOR = 22, 20
_IS_IN_RECORD_64 = 0xFFFFFFFF
_CHUNK = 2**20


def require_sound_archive(path: str | Path) -> None:
    """Refuse an archive that is none of torch's, or unpacks to more than itself.

    torch compresses nothing, and writes the directory right before the archive's end. Python's
    reader looks for it there and torch's where the end says that it is: they must not differ.

    Raises:
        CheckpointError: It is made to do harm; the message does not name the file.
        zipfile.BadZipFile: It is damaged.
    """
    size = os.path.getsize(path)
    try:
        with open(path, 'rb') as file, zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            place = _recorded_place_of_directory(file, size)
            is_elsewhere = archive.start_dir != place
    except Exception as error:  # zipfile raises many kinds for what it did not write
        raise zipfile.BadZipFile(str(error)) from error
    if unpacked > size:
        raise CheckpointError(
            f'it would unpack to {unpacked} bytes from {size}, and torch writes no compressed '
            'checkpoints'
        )
    if is_elsewhere:
        raise CheckpointError(
            'its archive has something between its directory and its end, which torch does not '
            'write, and which can hide another directory'
        )


def require_checksums(path: str | Path) -> None:
    """Compare every byte of an archive with its checksums, which torch's reader does not.

    An archive that was written after ``torch.serialization.set_crc32_options(False)`` has none,
    and what was filled in after ``torch.serialization.skip_data`` has none either: they are 0.

    Raises:
        CheckpointError: One is wrong; the message does not name the file.
        zipfile.BadZipFile: The archive is damaged elsewhere.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.CRC and not _has_its_checksum(archive, member):
                    raise CheckpointError(
                        f'{member.filename} in it has a wrong checksum: the file is damaged'
                    )
    except CheckpointError:
        raise
    except Exception as error:  # zipfile raises many kinds for what it did not write
        raise zipfile.BadZipFile(str(error)) from error


def _has_its_checksum(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(member) as content:
            while content.read(_CHUNK):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def _recorded_place_of_directory(file: BinaryIO, size: int) -> int:
    """Where an archive without a comment says that its directory begins."""
    file.seek(max(0, size - _LENGTH_OF_END - _LENGTH_OF_LOCATOR))
    last = file.read()
    locator, end = last[:-_LENGTH_OF_END], last[-_LENGTH_OF_END:]
    if not end.startswith(_END):
        raise zipfile.BadZipFile('something follows its end')
    (place,) = struct.unpack_from('<L', end, 16)
    if not locator.startswith(_LOCATOR_64):
        return place
    (where,) = struct.unpack_from('<Q', locator, 8)
    file.seek(where)
    record = file.read(56)
    if not record.startswith(_END_64):
        raise zipfile.BadZipFile('the record of its end is not where it should be')
    (large,) = struct.unpack_from('<Q', record, 48)
    if place not in (large, _IS_IN_RECORD_64):
        raise zipfile.BadZipFile('its end names two directories')
    return large
