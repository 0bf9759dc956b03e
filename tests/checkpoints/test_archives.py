"""An archive is what was written, or it is refused."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from mmrest.checkpoints import CheckpointError, read_checkpoint
from mmrest.engine.checkpointing import damage_of


def weights() -> dict[str, torch.Tensor]:
    return {'weight': torch.arange(8.0), 'bias': torch.arange(2.0)}


def test_a_byte_that_changed_anywhere_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    torch.save(weights(), path)
    whole = path.read_bytes()
    noticed = 0
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        try:
            found = read_checkpoint(path)
        except CheckpointError:
            noticed += 1
            continue
        torch.testing.assert_close(found, weights(), rtol=0, atol=0)
        assert not damage_of(path)
    assert noticed > len(whole) / 6  # the rest is padding, and what nobody reads


def test_a_changed_number_is_named_with_its_record(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    torch.save(weights(), path)
    whole = path.read_bytes()
    number = torch.tensor(5.0).numpy().tobytes()
    assert whole.count(number) == 1
    path.write_bytes(whole.replace(number, torch.tensor(6.0).numpy().tobytes()))
    text = r'a/data/0 in it has a wrong checksum: the file is damaged$'
    with pytest.raises(CheckpointError, match=rf'^{path} is refused: {text}'):
        read_checkpoint(path)
    assert damage_of(path) == text.rstrip('$')


def test_an_archive_without_checksums_is_read(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights(), path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert zipfile.ZipFile(path).testzip()  # it has none
    torch.testing.assert_close(read_checkpoint(path), weights())
    assert not damage_of(path)


def test_an_archive_whose_tensors_were_filled_in_later_is_read(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    with torch.serialization.skip_data():
        torch.save(weights(), path)
    reader = torch._C.PyTorchFileReader(str(path))
    content = bytearray(path.read_bytes())
    for index, tensor in enumerate(weights().values()):
        place, data = reader.get_record_offset(f'data/{index}'), tensor.numpy().tobytes()
        content[place : place + len(data)] = data
    path.write_bytes(content)
    torch.testing.assert_close(read_checkpoint(path), weights())
    assert not damage_of(path)


def save_scripted(path: Path) -> None:
    torch.jit.script(nn.Linear(2, 3)).save(str(path))


def save_program(path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(2, 3), (torch.ones(1, 2),)), path)


@pytest.mark.parametrize(
    ('save', 'said'),
    [
        (lambda path: torch.save(weights(), path, pickle_protocol=4), 'with pickle_protocol=4'),
        (lambda path: torch.save(weights(), path, pickle_protocol=5), 'with pickle_protocol=4'),
        (save_scripted, 'a TorchScript program; save the state_dict'),
        (save_program, 'an archive of something else, as of an exported program'),
    ],
)
@pytest.mark.filterwarnings('ignore')
def test_sound_archives_that_are_no_checkpoints_are_called_what_they_are(
    save: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    save(tmp_path / 'a.pt2')
    with pytest.raises(CheckpointError, match=said):
        read_checkpoint(tmp_path / 'a.pt2')
