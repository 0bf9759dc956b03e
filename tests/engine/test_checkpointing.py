"""Whole checkpoints: written so, kept until there is a newer one, and found."""

from __future__ import annotations

import os
import shutil
import struct
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OneCycleLR
from mmengine.runner import Runner

from mmrest.checkpoints import read_checkpoint
from mmrest.engine.checkpointing import (
    AtomicBackend,
    SafeCheckpointHook,
    damage_of,
    newest_whole_checkpoint,
    set_aside,
    use_safe_checkpoints,
)
from mmrest.errors import InputError
from tests.engine.toy_training import Watcher, make_runner, train


def save(path: Path, age: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({'state_dict': {'weight': torch.arange(1000.0)}}, path)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def empty(path: Path) -> None:
    path.write_bytes(b'')


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def fill_with_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def fill_with_garbage(path: Path) -> None:
    path.write_bytes(b'\x80' + bytes(range(255, 0, -1)))


def overlap(path: Path) -> None:
    """Ten thousand entries that are all the same megabyte."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', bytes(2**20))
    content = path.read_bytes()
    place = content.index(b'PK\1\2')
    entry = content[place : content.index(b'PK\5\6')]
    end = struct.pack('<HHHHLLH', 0, 0, 10_000, 10_000, 10_000 * len(entry), place, 0)
    path.write_bytes(content[:place] + entry * 10_000 + b'PK\5\6' + end)


@pytest.mark.parametrize(
    'damage', [truncate, empty, flip_a_byte, fill_with_zeros, fill_with_garbage, overlap]
)
def test_a_broken_checkpoint_is_named_and_the_one_before_it_taken(damage, tmp_path: Path) -> None:
    older, newer = save(tmp_path / 'epoch_1.pth', 9), save(tmp_path / 'epoch_2.pth', 5)
    (tmp_path / 'last_checkpoint').write_text(str(newer))
    assert newest_whole_checkpoint(str(tmp_path), {}) == (str(newer), '')
    damage(newer)
    path, note = newest_whole_checkpoint(str(tmp_path), {})
    assert path == str(older)
    assert f'{newer} is broken' in note
    damage(older)
    with pytest.raises(InputError, match=r'no checkpoint in .* is whole'):
        newest_whole_checkpoint(str(tmp_path), {})


def test_a_flipped_bit_anywhere_in_the_directory_is_no_error(tmp_path: Path) -> None:
    path = save(tmp_path / 'epoch_1.pth', 0)
    whole = path.read_bytes()
    directory = whole.index(b'PK\1\2')
    found = []
    for place in range(directory, len(whole)):
        for bit in (1, 8, 128):
            content = bytearray(whole)
            content[place] ^= bit
            path.write_bytes(content)
            found.append(bool(damage_of(path)))
    assert any(found)  # in times and attributes nothing depends on them


def test_a_copied_folder_goes_on_from_its_own_checkpoint(tmp_path: Path) -> None:
    for epoch in (1, 2):
        save(tmp_path / f'a/epoch_{epoch}.pth', 9 - epoch)
    (tmp_path / 'a/last_checkpoint').write_text(str(tmp_path / 'a/epoch_2.pth'))
    copied = shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    assert newest_whole_checkpoint(str(copied), {}) == (str(copied / 'epoch_2.pth'), '')
    (copied / 'epoch_2.pth').unlink()
    assert newest_whole_checkpoint(str(copied), {}) == (str(copied / 'epoch_1.pth'), '')


@pytest.mark.parametrize('metrics', ['loss', ['loss', 'acc']])
def test_the_best_checkpoint_of_another_training_is_not_removed(
    metrics: str | list[str], tmp_path: Path
) -> None:
    hook = SafeCheckpointHook(save_best=metrics, rule='less')
    hook.out_dir, hook.file_backend = str(tmp_path / 'own'), LocalBackend()
    for folder in ('own', 'other'):
        save(tmp_path / folder / 'best_loss_epoch_1.pth', 0)
        save(tmp_path / folder / 'epoch_1.pth', 0)
    own, other = (str(tmp_path / folder / 'best_loss_epoch_1.pth') for folder in ('own', 'other'))
    given = {own: own, other: own, str(tmp_path / 'other/best_acc_1.pth'): None, None: None}
    given[str(tmp_path / 'own/epoch_1.pth')] = None  # no best one
    for named, kept in given.items():
        if isinstance(metrics, str):
            hook.best_ckpt_path = named
        else:
            hook.best_ckpt_path_dict = dict(loss=named, acc=None)
        hook._forget_best_of_others()
        assert kept == (
            hook.best_ckpt_path if isinstance(metrics, str) else hook.best_ckpt_path_dict['loss']
        )


def test_the_newest_is_found_whatever_was_named_last(tmp_path: Path) -> None:
    assert newest_whole_checkpoint(str(tmp_path / 'absent'), {}) == (None, '')
    older = save(tmp_path / 'iter_90.pth', 9)
    (tmp_path / 'last_checkpoint').write_text(str(older))
    save(tmp_path / 'best_coco_bbox_mAP_epoch_1.pth', 1)  # without an optimizer's state
    save(tmp_path / 'rest_small.pth', 1)  # somebody's weights
    newer = save(tmp_path / 'iter_100.pth', 8)
    assert newest_whole_checkpoint(str(tmp_path), {})[0] == str(newer)
    own = save(tmp_path / 'mine_7.pth', 3)
    assert newest_whole_checkpoint(str(tmp_path), {'filename_tmpl': 'mine_{}.pth'})[0] == str(own)
    other = save(tmp_path.parent / 'other' / tmp_path.name / 'iter_110.pth', 2)
    options = {'out_dir': str(tmp_path.parent / 'other')}
    assert newest_whole_checkpoint(str(tmp_path), options)[0] == str(other)
    (tmp_path / 'last_checkpoint').write_text('')
    assert newest_whole_checkpoint(str(tmp_path), {})[0] == str(newer)


def test_a_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, 'No space left on device')

    path = tmp_path / 'epoch_1.pth'
    AtomicBackend().put(b'old', path)
    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match='No space'):
        AtomicBackend().put(b'new', path)
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['epoch_1.pth']


def test_a_file_is_never_seen_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'epoch_1.pth'
    seen = []
    monkeypatch.setattr(os, 'fsync', lambda file: seen.append(path.exists()))
    AtomicBackend().put(b'whole', path)
    assert seen == [False]
    assert path.read_bytes() == b'whole'


def test_there_is_a_whole_checkpoint_at_every_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = []
    write = AtomicBackend.put

    def watched(self, obj: bytes, filepath: str | Path) -> None:
        if str(filepath).endswith('.pth'):
            there.append([p for p in tmp_path.glob('run/epoch_*.pth') if not damage_of(p)])
        write(self, obj, filepath)

    monkeypatch.setattr(AtomicBackend, 'put', watched)
    runner = make_runner(tmp_path / 'run', True, max_keep_ckpts=1)
    assert [type(h) for h in runner.hooks if isinstance(h, CheckpointHook)] == [SafeCheckpointHook]
    train(runner)
    assert len(there) == 3
    assert all(there[1:]), 'the old one was removed before the new one was written'
    assert [path.name for path in tmp_path.glob('run/*.pth')] == ['epoch_3.pth']


def test_the_hook_alone_writes_whole_files(tmp_path: Path) -> None:
    runner = make_runner(tmp_path / 'run', True)
    register_backend('local', LocalBackend, force=True, prefixes='')
    train(runner)
    assert isinstance(get_file_backend(str(tmp_path)), AtomicBackend)


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / 'run' / 'epoch_1.pth.123.writing'
    left.parent.mkdir()
    left.write_bytes(b'half')
    train(make_runner(tmp_path / 'run', True), Watcher())
    assert not left.exists()


def test_a_training_that_begins_anew_keeps_what_an_earlier_one_saved(tmp_path: Path) -> None:
    train(make_runner(tmp_path, True))
    saved = {path.name: path.read_bytes() for path in tmp_path.glob('*.pth')}
    assert saved
    save(tmp_path / 'rest_small.pth', 1)  # somebody's weights stay
    train(make_runner(tmp_path, True))
    (kept,) = tmp_path.glob('earlier_*')
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == saved
    assert {*saved, 'rest_small.pth'} == {path.name for path in tmp_path.glob('*.pth')}
    # a resumed one goes on with them
    train(make_runner(tmp_path, True, resume_from=str(tmp_path / 'epoch_3.pth')))
    assert [*tmp_path.glob('earlier_*')] == [kept]


def test_weights_that_a_training_starts_from_stay_in_their_place(tmp_path: Path) -> None:
    first, best = save(tmp_path / 'epoch_1.pth', 9), save(tmp_path / 'best_mAP_epoch_1.pth', 5)
    interrupted = save(tmp_path / 'interrupted.pth', 7)
    content = first.read_bytes()
    kept = set_aside(str(tmp_path), None, str(first))
    assert kept.parent == tmp_path
    assert sorted(path.name for path in kept.iterdir()) == sorted(
        path.name for path in (first, best, interrupted)
    )
    assert first.read_bytes() == (kept / first.name).read_bytes() == content
    assert not best.exists()
    assert set_aside(str(tmp_path / 'absent'), None, None) is None


@pytest.mark.parametrize('kind', [CheckpointHook, SafeCheckpointHook])
def test_options_of_saving_are_known_before_the_first_epoch(
    kind: type[CheckpointHook], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"argument 'intervall'.*did you mean interval"):
        use_safe_checkpoints(
            SimpleNamespace(hooks=[kind(intervall=1)], save_checkpoint=Runner.save_checkpoint)
        )


def test_a_best_metric_that_is_none_is_named_with_those_that_are(tmp_path: Path) -> None:
    hook = SafeCheckpointHook(save_best='bbox_mAP', rule='greater')
    with pytest.raises(InputError, match=r"save_best='bbox_mAP' .*: coco/bbox_mAP, coco/x"):
        hook._save_best_checkpoint(None, {'coco/bbox_mAP': 0.5, 'coco/x': 1.0})


def test_nothing_that_was_kept_is_replaced(tmp_path: Path) -> None:
    save(tmp_path / 'epoch_1.pth', 9)
    first = set_aside(str(tmp_path), None, None)
    save(tmp_path / 'epoch_1.pth', 9)
    save(tmp_path / 'iter_7.pth', 20)
    second = set_aside(str(tmp_path), 'mine_{}.pth', None)
    assert first != second
    assert [path.name for path in first.iterdir()] == ['epoch_1.pth']
    assert sorted(path.name for path in second.iterdir()) == ['epoch_1.pth', 'iter_7.pth']


def test_a_runner_of_ones_own_may_save_as_it_likes() -> None:
    def save_checkpoint(out_dir: str, **options: object) -> None: ...

    hook = SafeCheckpointHook(shards=4)
    use_safe_checkpoints(SimpleNamespace(hooks=[hook], save_checkpoint=save_checkpoint))
    assert hook.args == dict(shards=4)


def test_an_old_checkpoint_that_is_a_folder_goes_when_the_new_one_is_there(tmp_path: Path) -> None:
    """As DeepSpeed's are, of which mmengine removes the folder."""
    hook = SafeCheckpointHook()
    hook.file_backend = LocalBackend()
    old, last = tmp_path / 'epoch_1', tmp_path / 'epoch_2'
    for folder in (old, last):
        folder.mkdir()
    hook.last_ckpt = str(last)
    with hook._removing_afterwards():
        hook.file_backend.rmtree(str(old))
        hook.file_backend.rmtree(str(last))  # written anew meanwhile
        with hook._removing_afterwards():  # the best, within the saving of the last
            pass
        assert old.exists()
    assert not old.exists()
    assert last.exists()
    assert type(hook.file_backend) is LocalBackend


def test_torchs_old_format_counts_as_whole(tmp_path: Path) -> None:
    path = tmp_path / 'epoch_1.pth'
    torch.save({'weight': torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert damage_of(path) == ''
    assert newest_whole_checkpoint(str(tmp_path), {}) == (str(path), '')


@pytest.mark.parametrize('template', ['ep{:03d}.pth', 'ep{}.pth', 'ep{0:>4}.pth'])
def test_names_of_ones_own_are_found(template: str, tmp_path: Path) -> None:
    paths = [save(tmp_path / template.format(step), 9 - step) for step in (1, 2)]
    options = dict(filename_tmpl=template)
    assert newest_whole_checkpoint(str(tmp_path), options) == (str(paths[1]), '')
    truncate(paths[1])
    assert newest_whole_checkpoint(str(tmp_path), options)[0] == str(paths[0])
    kept = set_aside(str(tmp_path), template, None)
    assert sorted(kept.iterdir()) == sorted(kept / path.name for path in paths)


@pytest.mark.parametrize('template', ['ep_{}_{}.pth', 'ep_{step}.pth', 'ep_{'])
def test_a_name_with_other_places_than_for_a_number_is_refused(template: str) -> None:
    hook = SafeCheckpointHook(filename_tmpl=template)
    with pytest.raises(InputError, match=r'filename_tmpl=.* has more than one place'):
        use_safe_checkpoints(SimpleNamespace(hooks=[hook], save_checkpoint=Runner.save_checkpoint))


def test_where_files_were_copied_the_last_is_the_one_that_is_named(tmp_path: Path) -> None:
    """In the order of their names, in which epoch_9 comes after epoch_10."""
    for age, number in enumerate((9, 8, 11, 10, 1)):
        save(tmp_path / f'epoch_{number}.pth', age)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_11.pth'))
    found, _ = newest_whole_checkpoint(str(tmp_path), {})
    assert found == str(tmp_path / 'epoch_11.pth')
    # begun again from epoch 7: those of the first training have larger numbers, and are older
    save(tmp_path / 'epoch_8.pth', -5)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_8.pth'))
    found, _ = newest_whole_checkpoint(str(tmp_path), {})
    assert found == str(tmp_path / 'epoch_8.pth')
    # killed between writing the next one and naming it
    save(tmp_path / 'epoch_9.pth', -6)
    found, _ = newest_whole_checkpoint(str(tmp_path), {})
    assert found == str(tmp_path / 'epoch_9.pth')
    save(tmp_path / 'interrupted.pth', -7)
    found, _ = newest_whole_checkpoint(str(tmp_path), {})
    assert found == str(tmp_path / 'interrupted.pth')


@pytest.mark.parametrize('content', [b'\xff\xfe', b'a\0b', b'', b'.'])
def test_a_note_of_the_last_checkpoint_that_is_none_is_passed_over(
    content: bytes, tmp_path: Path
) -> None:
    path = save(tmp_path / 'epoch_1.pth', 1)
    (tmp_path / 'last_checkpoint').write_bytes(content)
    assert newest_whole_checkpoint(str(tmp_path), {}) == (str(path), '')


def test_what_an_interruption_saved_is_set_aside_wherever_checkpoints_go(tmp_path: Path) -> None:
    interrupted = save(tmp_path / 'run' / 'interrupted.pth', 1)
    content = interrupted.read_bytes()
    train(make_runner(tmp_path / 'run', True, out_dir=str(tmp_path / 'elsewhere')))
    (kept,) = (tmp_path / 'run').glob('earlier_*')
    assert (kept / 'interrupted.pth').read_bytes() == content
    assert sorted(p.name for p in (tmp_path / 'elsewhere/run').glob('*.pth')) == [
        f'epoch_{number}.pth' for number in (1, 2, 3)
    ]


def test_a_training_that_never_begins_leaves_an_earlier_one_as_it_was(tmp_path: Path) -> None:
    class Fail(Hook):
        def before_train_iter(self, *_: object, **__: object) -> None:
            raise RuntimeError('a head does not fit')

    train(make_runner(tmp_path, True))
    before = {path.name: path.read_bytes() for path in tmp_path.glob('*.pth')}
    named = (tmp_path / 'last_checkpoint').read_text()
    with pytest.raises(RuntimeError, match='a head does not fit'):
        train(make_runner(tmp_path, True), hooks=[Fail()])
    assert {path.name: path.read_bytes() for path in tmp_path.glob('*.pth')} == before
    assert (tmp_path / 'last_checkpoint').read_text() == named
    assert not [*tmp_path.glob('earlier_*')]


@pytest.mark.parametrize('named', [False, True])
def test_what_a_training_saves_is_read_without_running_code(named: bool, tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    schedule = OneCycleLR(optimizer, eta_max=0.1, total_steps=10, by_epoch=False)
    states = [schedule.state_dict()]
    classes = dict(classes=('a', 'b'), palette=[(1, 2, 3)])
    infos = dict(classes, info=ConfigDict(by=ConfigDict(name='me'), n=[1]))
    checkpoint = dict(
        meta=dict(dataset_meta=infos),
        message_hub=dict(runtime_info=dict(dataset_meta=infos)),
        param_schedulers=dict(a=states) if named else states,
    )
    SafeCheckpointHook().before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, tmp_path / 'a.pth')
    read = read_checkpoint(str(tmp_path / 'a.pth'))
    info = dict(by=dict(name='me'), n=[1])
    for notes in (read['meta'], read['message_hub']['runtime_info']):
        assert notes['dataset_meta'] == dict(classes, info=info)
    state = read['param_schedulers']['a'] if named else read['param_schedulers']
    other = OneCycleLR(optimizer, eta_max=0.5, total_steps=20, by_epoch=False)
    other.load_state_dict(state[0])
    assert other.total_steps == 10
    other.step()
