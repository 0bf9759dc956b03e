"""Can what a command line is to write be written? Asked before anything long begins."""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mmrest.commands.processes import is_first_process
from mmrest.errors import InputError


def require_new_file(option: str, path: str, replace: bool, hint: str) -> None:
    """Check that a file can be written, before anything is measured.

    Raises:
        InputError: It exists and may not be replaced, is a folder, or its folder is missing.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.exists(folder):
        raise InputError(f'{option} {path}: there is no folder {folder}')
    if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise InputError(
            f'{option} {path} cannot be written: it or its folder is no place for a file'
        )
    if os.path.exists(path) and not replace:
        raise InputError(f'{path} exists; {hint}')


def require_new_picture(option: str, path: str, replace: bool, hint: str) -> None:
    """Check that a picture can be drawn into a file, before anything is measured.

    Raises:
        InputError: As :func:`require_new_file`, or matplotlib does not know such pictures.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    require_new_file(option, path, replace, hint)
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if os.path.splitext(path)[1].lower().lstrip('.') not in known:
        raise InputError(f'{option} {path}: the name must end with one of {", ".join(known)}')


def require_writable(folder: str | os.PathLike) -> None:
    """Make a folder, and check that files can be written into it.

    One that was not there and stays empty is removed when the process ends.

    Raises:
        InputError: It cannot be made or written to.
    """
    try:
        _make(Path(folder))
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as error:
        raise InputError(f'the work directory {folder} is a file') from error
    except OSError as error:
        raise InputError(f'the work directory {folder} cannot be used: {error}') from error


def make_folder(option: str, folder: str | Path) -> None:
    """Make a folder that files can be written into.

    One that was not there and stays empty is removed when the process ends.

    Raises:
        InputError: It is not to be had.
    """
    try:
        _make(Path(folder))
    except FileExistsError as error:
        raise InputError(f'{option} {folder} is a file, not a folder') from error
    except OSError as error:
        raise InputError(f'{option} {folder} cannot be used: {error}') from error
    if not os.access(folder, os.W_OK):
        raise InputError(f'{option} {folder} cannot be written')


def _make(folder: Path) -> None:
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(made):  # what is registered last is called first
        atexit.register(_remove_if_empty, path.absolute(), os.getpid())


def _remove_if_empty(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not in a fork of it
        with suppress(OSError):  # it is not empty, or somebody has removed it
            folder.rmdir()


@contextmanager
def sole_training(work_dir: str | os.PathLike) -> Iterator[None]:
    """Keep other trainings out of a work directory, in which they would replace checkpoints.

    The system gives it free when the process ends, however it ends. Of a training's processes the
    first asks for all.

    Raises:
        InputError: Another training is at work there.
    """
    if not is_first_process():
        yield
        return
    require_writable(work_dir)
    lock = FileLock(os.path.join(work_dir, '.training'), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f'another training is at work in {work_dir}; choose another --work-dir'
        ) from error
    except (OSError, NotImplementedError):  # a file system without locks
        pass
    try:
        yield
    finally:
        lock.release()
