"""Work directories that one training at a time writes into."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from mmrest.commands.output_files import (
    make_folder,
    require_new_file,
    require_writable,
    sole_training,
)
from mmrest.errors import InputError

HOLDING = """
import sys, time
from mmrest.commands.output_files import sole_training
with sole_training(sys.argv[1]):
    print('holds', flush=True)
    time.sleep(60)
"""


def test_a_second_training_in_a_work_directory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, '-c', HOLDING, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == 'holds\n'
        refused = pytest.raises(InputError, match=f'another training is at work in {tmp_path}')
        with refused, sole_training(tmp_path):
            pass
        monkeypatch.setenv('RANK', '1')
        with sole_training(tmp_path):  # of the same training; its first process has asked
            pass
        monkeypatch.setenv('RANK', '0')
    finally:
        process.kill()
        process.wait()
    with sole_training(tmp_path):  # whoever is killed holds nothing
        pass


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'--csv .* cannot be written: it or its folder is no'):
        require_new_file('--csv', str(tmp_path), True, '')


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    file = tmp_path / 'run.py'
    file.write_text('kept')
    with pytest.raises(InputError, match=r'the work directory .*run\.py is a file'):
        require_writable(file)
    with pytest.raises(InputError, match=r'--out-dir .*run\.py is a file, not a folder'):
        make_folder('--out-dir', file)
    assert file.read_text() == 'kept'


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    folder = tmp_path / ('long' * 100)
    with pytest.raises(InputError, match=r'--out-dir .* cannot be used: .*too long'):
        make_folder('--out-dir', folder)
    with pytest.raises(InputError, match=r'the work directory .* cannot be used: .*too long'):
        require_writable(folder)


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, 'access', lambda path, mode: False)  # root may write everywhere
    with pytest.raises(InputError, match=f'--out-dir {tmp_path} cannot be written'):
        make_folder('--out-dir', tmp_path)


def test_a_file_system_without_locks_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(lock: FileLock) -> None:
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(FileLock, 'acquire', refuse)
    entered = []
    with sole_training(tmp_path):
        entered.append(True)
    assert entered


MAKING = """
import os, sys
from pathlib import Path
from mmrest.commands.output_files import make_folder, require_writable
make_folder('--out-dir', 'new/empty')
make_folder('--out-dir', 'there/full')
require_writable('new/run')
Path('there/full/a.txt').touch()
if not os.fork():
    sys.exit()
os.wait()
assert Path('new/empty').exists()
sys.exit(1)
"""


def test_a_folder_that_stays_empty_is_gone_in_the_end(tmp_path: Path) -> None:
    """Of a command that fails before it writes anything."""
    for folder in ('there', 'earlier'):
        (tmp_path / folder).mkdir()
    done = subprocess.run([sys.executable, '-c', MAKING], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stderr) == (1, b'')
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*'))
    assert found == ['earlier', 'there', 'there/full', 'there/full/a.txt']
