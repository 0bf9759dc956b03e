"""The weights that the families' authors have published: ``mmrest://NAME``.

``published.csv`` is the table: where each file is, as the authors write it, and its licence.
A file is looked for in the weights' folder (``$MMREST_WEIGHTS``, by default ``mmrest/weights`` in
the user's cache) and fetched into it where that is possible without a person.
"""

from __future__ import annotations

import csv
import difflib
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmrest.checkpoints.download import download, download_from_drive, is_same, record_checksum
from mmrest.checkpoints.errors import CheckpointError, CheckpointNotFoundError

SCHEME = 'mmrest://'
_SUFFIXES = '.pth', '.pt', '.pyth', '.pkl', '.safetensors'


@dataclass(frozen=True)
class Published:
    """A published file.

    Attributes:
        name: Behind ``mmrest://``.
        family: Class of the backbone.
        variant: ``arch`` of the backbone that it fits.
        task: ``imagenet``, ``imagenet22k``, ..., or the whole model that it is of.
        file: Name of the file, empty if the authors' link does not show it.
        address: Where it is; empty if nowhere.
        code: Access code of the address, if it asks for one.
        others: Further addresses.
        licence: Of the file, or of the code where the authors state none for it.
        note: What is doubtful.
    """

    name: str
    family: str
    variant: str
    task: str
    file: str
    address: str
    code: str
    others: str
    licence: str
    note: str

    @property
    def file_name(self) -> str:
        """What it is called in the weights' folder; the authors' names are not all different."""
        return f'{self.name}{Path(self.file).suffix or ".pth"}'

    @property
    def drive_id(self) -> str | None:
        """Its id on Google Drive, if it is a file there."""
        found = re.search(r'drive\.google\.com/(?:file/d/|open\?id=|uc\?id=)([\w-]+)', self.address)
        return found[1] if found else None

    @property
    def how(self) -> str:
        """``'direct'``, ``'drive'`` (with gdown), ``'by hand'`` or ``'nowhere'``."""
        if not self.address:
            return 'nowhere'
        if self.drive_id:
            return 'drive'
        by_hand = re.search(r'pan\.baidu\.com|drive\.google\.com|onedrive|sharepoint', self.address)
        return 'by hand' if by_hand else 'direct'


@cache
def published() -> dict[str, Published]:
    """Name -> file, of the whole table."""
    with open(Path(__file__).with_name('published.csv'), newline='', encoding='utf-8') as file:
        return {row['name']: Published(**row) for row in csv.DictReader(file)}


# Names that an error suggests.
_MOST_HINTS = 6


def find_published(name: str) -> Published:
    """The file of a name, with or without ``mmrest://``.

    Raises:
        CheckpointError: There is none; the message names those that are like it.
    """
    name = name.removeprefix(SCHEME)
    if name not in published():
        longer = [other for other in published() if name and other.startswith(name)]
        close = longer[:_MOST_HINTS] or difflib.get_close_matches(name, published())
        hint = (
            f'did you mean {" or ".join(close)}?' if close else '`python -m mmrest weights` has all'
        )
        raise CheckpointError(f'{SCHEME}{name}: no such published weights; {hint}')
    return published()[name]


def weights_folder() -> Path:
    """Where published files are kept."""
    if chosen := os.environ.get('MMREST_WEIGHTS'):
        return Path(chosen).expanduser()
    cache_folder = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(cache_folder) / 'mmrest/weights'


def local_file(weights: Published) -> Path | None:
    """Where a published file is on this machine, or None."""
    names = [weights.file_name, *(f'{weights.name}{suffix}' for suffix in _SUFFIXES)]
    if sum(weights.file == other.file for other in published().values()) == 1:
        names.append(weights.file)
    paths = (weights_folder() / name for name in names)
    return next((path for path in paths if path.is_file()), None)


def obtain(name: str) -> str:
    """Path of a published file, which is fetched if it is not here yet.

    Args:
        name: See :func:`find_published`.

    Raises:
        CheckpointNotFoundError: It is not here and cannot be fetched; the message says what to
            get from where, and where to put it.
        CheckpointError: There is no such name, or the file is not what it was.
    """
    weights = find_published(name)
    if path := local_file(weights):
        if not is_same(path):
            raise CheckpointError(
                f'{path} has changed since it was first used (its SHA-256 is not that of '
                f'{path.name}.sha256). Remove both to fetch it again, or the latter to take it as '
                'it is.'
            )
        return str(path)
    target = weights_folder() / weights.file_name
    try:
        if weights.how == 'direct':
            download(weights.address, target)
        elif weights.how == 'drive':
            download_from_drive(weights.drive_id, target)
        else:
            raise CheckpointNotFoundError('it cannot be fetched without a person')
    except CheckpointNotFoundError as error:
        raise CheckpointNotFoundError(
            f'{SCHEME}{weights.name} is not here: {error}\n{how_to_get(weights)}'
        ) from error
    record_checksum(target)
    return str(target)


def how_to_get(weights: Published) -> str:
    """What a person has to do for a file."""
    if not weights.address:
        return f'  Nobody can get it: {weights.note}.'
    code = f' (access code {weights.code})' if weights.code else ''
    lines = [f'  Get it from {weights.address}{code}']
    lines += [f'  or from {weights.others}'] if weights.others else []
    lines += [f'  and put it at {weights_folder() / weights.file_name}']
    lines += [f'  ({weights.note})'] if weights.note else []
    return '\n'.join([*lines, f'  Licence: {weights.licence}'])
