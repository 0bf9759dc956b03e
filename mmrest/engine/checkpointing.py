"""Checkpoints that a killed run leaves whole, and finding the newest of them.

mmengine writes a checkpoint into its place, so that a run that is killed meanwhile leaves half a
file under a good name, and ``--resume`` takes the file that was named last, whole or not.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmrest.checkpoints import CheckpointError
from mmrest.checkpoints.archives import require_checksums, require_sound_archive
from mmrest.checkpoints.reading import scan_pickles
from mmrest.errors import InputError, did_you_mean, list_some

INTERRUPTED = 'interrupted.pth'
# what a checkpoint from within an epoch says: batches that are done, and those of an epoch
BATCHES = 'batches_of_epoch'
_TEMPORARY = '.writing'
_DEFAULT_NAMES = ('epoch_{}.pth', 'iter_{}.pth')


class AtomicBackend(LocalBackend):
    """mmengine's local files; a written one appears under its name only when it is whole."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes beside ``filepath`` and move them there.

        Raises:
            OSError: They cannot be written; what was there before is still there.
        """
        path = Path(os.path.realpath(filepath))  # through a link, as mmengine does
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f'{path.name}.{os.getpid()}{_TEMPORARY}')
        try:
            with open(temporary, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())  # or a crash of the machine may leave an empty file
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """As :meth:`put`, of text."""
        self.put(obj.encode(encoding), filepath)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's hook, which removes an old checkpoint when the new one is there, not before.

    Of a checkpoint within an epoch (``by_epoch=False``) it notes how far that epoch is.
    """

    _batches_done = 0
    _begins_anew = False

    def before_train(self, runner: Runner) -> None:
        """Called by the runner before the first epoch; clears what killed runs left.

        Raises:
            InputError: An option of the hook is known to nobody.
        """
        write_whole_files()
        require_saving_options(self, runner)
        super().before_train(runner)
        self._forget_best_of_others()
        self._begins_anew = not runner._resume
        for folder in self._folders(runner):
            for left in Path(folder).glob(f'*{_TEMPORARY}'):
                left.unlink(missing_ok=True)

    def _forget_best_of_others(self) -> None:
        """Of the best checkpoints that a file names, which are removed once there are better ones.

        Those are of another training where its file is resumed, or its folder was copied.
        """
        if getattr(self, 'best_ckpt_path', None):
            self.best_ckpt_path = self._own_best(self.best_ckpt_path)
        by_metric = getattr(self, 'best_ckpt_path_dict', None) or {}
        for metric, path in by_metric.items():
            by_metric[metric] = self._own_best(path)

    def _own_best(self, path: Any) -> str | None:
        """The file of this name in the hook's own folder, if it is there and is a best one."""
        name = os.path.basename(str(path))
        own = self.file_backend.join_path(self.out_dir, name)
        return own if name.startswith('best_') and self.file_backend.exists(own) else None

    def _folders(self, runner: Runner) -> list[str]:
        """Where the first process finds checkpoints; interruptions are saved in the second."""
        folders = () if runner.rank else dict.fromkeys((self.out_dir, runner.work_dir))
        return [folder for folder in folders if os.path.isdir(folder)]

    def _keep_earlier(self, runner: Runner) -> None:
        """Keep what an earlier training saved, once this one has come as far as a step."""
        self._begins_anew = False
        for folder in self._folders(runner):
            if kept := set_aside(folder, self.filename_tmpl, runner._load_from):
                runner.logger.warning(
                    f'{folder} holds checkpoints of an earlier training. They are now in {kept}, '
                    'since this one begins anew; --resume would have gone on from them'
                )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Called by the runner after each step."""
        if self._begins_anew:
            self._keep_earlier(runner)
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._batches_done = batch_idx + 1
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        self._batches_done = 0

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Called by the runner; leaves nothing in it that only unpickling code could read."""
        hub = checkpoint.get('message_hub') or {}
        for notes in (checkpoint.get('meta') or {}, hub.get('runtime_info') or {}):
            notes.update({name: _as_plain(value) for name, value in notes.items()})
        schedules = checkpoint.get('param_schedulers') or []
        for each in schedules.values() if isinstance(schedules, dict) else [schedules]:
            for state in each:
                # methods of its own, which a schedule has when it is built, as OneCycleLR's
                for name in [name for name, value in state.items() if callable(value)]:
                    del state[name]

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if self._batches_done:
            meta = {**meta, BATCHES: (self._batches_done, len(runner.train_dataloader))}
        with self._removing_afterwards():
            super()._save_checkpoint_with_step(runner, step, meta)
        if runner.rank == 0 and self.last_ckpt and self.last_ckpt != _interrupted(runner):
            Path(_interrupted(runner)).unlink(missing_ok=True)  # this one is further

    def _save_best_checkpoint(self, runner: Runner, metrics: Mapping[str, Any]) -> None:
        given = self.key_indicators if self.save_best else ()
        wanted = [name for name in given if name not in (*metrics, 'auto')]
        if wanted and metrics:
            hint = did_you_mean(wanted[0], list(metrics))
            raise InputError(
                f'save_best={wanted[0]!r} of the checkpoint hook is none of the metrics: '
                f'{", ".join(metrics)}{hint}'
            )
        with self._removing_afterwards():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_afterwards(self) -> Iterator[None]:
        backend = self.file_backend
        if isinstance(backend, _RemovingLater):
            yield
            return
        self.file_backend = _RemovingLater(backend)
        try:
            yield
            self.file_backend.remove_all(but=(self.last_ckpt, *_best_checkpoints(self)))
        finally:
            self.file_backend = backend


def _as_plain(value: Any) -> Any:
    """With plain dictionaries for those of a config."""
    if type(value) in (dict, ConfigDict):
        return {key: _as_plain(each) for key, each in value.items()}
    return type(value)(map(_as_plain, value)) if type(value) in (list, tuple) else value


def write_whole_files() -> None:
    """Make mmengine write every local file atomically."""
    register_backend('local', AtomicBackend, force=True, prefixes='')


def use_safe_checkpoints(runner: Runner) -> None:
    """Make mmengine write every local file atomically, and its own checkpoint hook a safe one."""
    write_whole_files()
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            require_saving_options(hook, runner)
        if type(hook) is CheckpointHook:  # it is built, and this has no more state
            hook.__class__ = SafeCheckpointHook


def require_saving_options(hook: CheckpointHook, runner: Runner) -> None:
    """Check what a hook saves by, which mmengine finds out after the first epoch.

    Raises:
        InputError: Its ``filename_tmpl`` is none, or an option is no argument of the runner's
            ``save_checkpoint``.
    """
    try:
        str(hook.filename_tmpl).format(1)
    except (IndexError, KeyError, ValueError) as error:
        raise InputError(
            f'filename_tmpl={hook.filename_tmpl!r} of the checkpoint hook has more than one place '
            "for the epoch or iteration, as in 'epoch_{}.pth'"
        ) from error
    known = inspect.signature(runner.save_checkpoint).parameters
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for name in hook.args:
        if name not in known:
            hint = did_you_mean(name, [*inspect.signature(CheckpointHook).parameters, *known])
            raise InputError(
                f'the config gives the checkpoint hook an argument {name!r}, which it does not '
                f'have{hint}'
            )


class _RemovingLater:
    """A file backend that notes what it is to remove."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._files: list[str] = []
        self._folders: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self._files.append(path)

    def rmtree(self, path: str) -> None:
        self._folders.append(path)

    def remove_all(self, but: tuple[str | None, ...]) -> None:
        """Remove them, unless they were written anew meanwhile."""
        for path in self._files:
            if path not in but:
                self._backend.remove(path)
        for path in self._folders:
            if path not in but:
                self._backend.rmtree(path)


def _best_checkpoints(hook: CheckpointHook) -> list[str | None]:
    by_metric = getattr(hook, 'best_ckpt_path_dict', None) or {}
    return [getattr(hook, 'best_ckpt_path', None), *by_metric.values()]


def _interrupted(runner: Runner) -> str:
    return os.path.join(runner.work_dir, INTERRUPTED)


def newest_whole_checkpoint(work_dir: str, options: Mapping[str, Any]) -> tuple[str | None, str]:
    """The checkpoint that an interrupted training goes on from.

    Args:
        work_dir: Of the training.
        options: The config's ``default_hooks.checkpoint``.

    Returns:
        The newest whole one, None if no training has saved any there; and what is to be said of
        broken ones that are newer.

    Raises:
        InputError: There are some, and all of them are broken.
    """
    broken = []
    for path in _newest_first(work_dir, options):
        if not (damage := damage_of(path)):
            note = f'{"; ".join(broken)}: going on from {path}' if broken else ''
            return str(path), note
        broken.append(f'{path} is broken ({damage})')
    if broken:
        raise InputError(
            f'--resume: no checkpoint in {work_dir} is whole: {list_some(broken, 4)}. Name another '
            'with --resume FILE, or start anew in another --work-dir'
        )
    return None, ''


def _newest_first(work_dir: str, options: Mapping[str, Any]) -> list[Path]:
    by_time = sorted(_saved(work_dir, options), key=os.path.getmtime, reverse=True)
    last = _named_last(work_dir, options)
    if last not in by_time:
        return by_time
    # where files were copied, times say nothing; one with a smaller number is no newer one
    newer = [path for path in by_time[: by_time.index(last)] if not _is_before(path, last)]
    return [*newer, last, *(path for path in by_time if path not in (*newer, last))]


def _is_before(path: Path, other: Path) -> bool:
    """Whether names that differ in a number alone say so."""
    (text, number), (other_text, other_number) = map(_name_and_number, (path, other))
    return text == other_text and number < other_number


def _name_and_number(path: Path) -> tuple[str, int]:
    number = re.search(r'\d+(?=\D*$)', path.name)
    if number is None:
        return path.name, 0
    return f'{path.name[: number.start()]}#{path.name[number.end() :]}', int(number[0])


def damage_of(path: str | Path) -> str:
    """What is wrong with a checkpoint's archive; empty if nothing is.

    Every byte is read and compared with its checksum. What the archive holds is not looked at.
    """
    if not os.path.getsize(path):
        return 'it is empty'
    try:
        with open(path, 'rb') as file:
            if file.read(1) == b'\x80':  # torch's format before 1.6, which has no checksums
                scan_pickles(path)
                return ''
        require_sound_archive(path)
        require_checksums(path)
    except CheckpointError as error:
        return str(error)
    except Exception as error:  # of many kinds
        return f'cut short or no checkpoint: {error}'
    return ''


def set_aside(folder: str, name: str | None, needed: str | None) -> Path | None:
    """Move the checkpoints of an earlier training to where the next one replaces none.

    Args:
        folder: That they are in.
        name: ``filename_tmpl`` of the checkpoint hook, beside mmengine's own names; or None.
        needed: A file that is also left where it is.

    Returns:
        A folder in it that holds them, named after the time of the newest; None if there are none.
    """
    patterns = [*_patterns(None), *_patterns(name), r'best_.+\.pth']
    earlier = [path for path in _files(Path(folder), patterns) if not path.is_symlink()]
    Path(folder, 'last_checkpoint').unlink(missing_ok=True)
    if not earlier:
        return None
    newest = max(path.stat().st_mtime for path in earlier)
    kept = Path(folder, f'earlier_{time.strftime("%Y%m%d_%H%M%S", time.localtime(newest))}')
    while kept.exists():  # two trainings that ended within a second
        kept = kept.with_name(f'{kept.name}_')
    kept.mkdir()
    for path in earlier:
        if needed and os.path.realpath(needed) == os.path.realpath(path):
            shutil.copy2(path, kept)
        else:
            path.replace(kept / path.name)
    return kept


def _patterns(name: str | None) -> list[str]:
    names = {*([name] if name else _DEFAULT_NAMES), INTERRUPTED}
    # {} and formats such as {:03d}
    return [re.sub(r'\\{[^{}]*\\}', r'\\s*\\d+', re.escape(name)) for name in names]


def _files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return [
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.is_file() and any(re.fullmatch(pattern, path.name) for pattern in patterns)
    ]


def _saved(work_dir: str, options: Mapping[str, Any]) -> set[Path]:
    """All files that a training may go on from."""
    last = _named_last(work_dir, options)
    saved = {last} if last else set()
    for folder in _own_folders(work_dir, options):
        saved |= {*_files(folder, _patterns(options.get('filename_tmpl')))}
    return {path.resolve() for path in saved}


def _own_folders(work_dir: str, options: Mapping[str, Any]) -> list[Path]:
    out_dir = options.get('out_dir')
    return [Path(work_dir), *([Path(out_dir, Path(work_dir).name)] if out_dir else [])]


def _named_last(work_dir: str, options: Mapping[str, Any]) -> Path | None:
    """The file that mmengine would resume from, if it is there.

    A folder that was copied names the file of the other training; here it is its own of this name.
    """
    with suppress(OSError, ValueError):  # ValueError: it holds no text, or no path
        name = Path(Path(work_dir, 'last_checkpoint').read_text().strip()).name
        for folder in _own_folders(work_dir, options):
            if name and (own := folder / name).is_file():
                return own.resolve()
    return None
