"""Checkpoints that were made to do harm: none runs code, takes memory or time, or is read."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import resource
import signal
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmrest.checkpoints import CheckpointError, read_checkpoint

MARKER = 'executed'
_SECONDS = 30
_MEGABYTES = 512


def short(text: str) -> bytes:
    return b'\x8c' + bytes([len(text)]) + text.encode()


def text_of(length: int, character: str = 'a') -> bytes:
    content = (character * length).encode()
    return b'X' + struct.pack('<I', len(content)) + content


MKDIR = short(MARKER) + b'\x85'  # ('executed',)
PICKLES: dict[str, bytes] = {
    # the opcodes that can call something, each with os.mkdir('executed')
    'reduce of a global': b'\x80\x04cposix\nmkdir\n' + MKDIR + b'R.',
    'reduce of a stack global': b'\x80\x04'
    + short('posix')
    + short('mkdir')
    + b'\x93'
    + MKDIR
    + b'R.',
    'inst': b'\x80\x02(V' + MARKER.encode() + b'\niposix\nmkdir\n.',
    'obj': b'\x80\x02(cposix\nmkdir\nV' + MARKER.encode() + b'\no.',
    'newobj': b'\x80\x02cposix\nmkdir\n' + b'V' + MARKER.encode() + b'\n\x85\x81.',
    'newobj_ex': b'\x80\x04cposix\nmkdir\n' + MKDIR + b'}\x92.',
    'eval': b"\x80\x02cbuiltins\neval\nV__import__('os').mkdir('executed')\n\x85R.",
    'getattr': b'\x80\x02cbuiltins\ngetattr\ncposix\nmkdir\nV__call__\n\x86RV'
    + MARKER.encode()
    + b'\n\x85R.',
    'a dotted name': b'\x80\x04' + short('os') + short('path.os.mkdir') + b'\x93' + MKDIR + b'R.',
    'a name inside an allowed module': b'\x80\x02cnumpy.core.multiarray\nnumpy.os.mkdir\nV'
    + MARKER.encode()
    + b'\n\x85R.',
    'numpy.load': b'\x80\x02cnumpy\nload\nVx.npy\n\x85R.',
    'an extension': b'\x80\x02\x82\x01.',
    'a persistent id': b'\x80\x02Vmodule\nQ.',
    'a state for a class': b'\x80\x02cnumpy\nndarray\n}V__setstate__\nNsb.',
    'objects of codecs': b'\x80\x02c_codecs\nencode\nVabc\nVrot13\n\x86R.',
    # claims that are larger than the file
    'a claim of bytes': b'\x80\x04\x8e' + struct.pack('<Q', 2**60) + b'abc.',
    'a claim of text': b'\x80\x04\x8d' + struct.pack('<Q', 2**60) + b'abc.',
    'a claim of a number': b'\x80\x02\x8b' + struct.pack('<i', 2**31 - 1) + b'abc.',
    'a claim of a frame': b'\x80\x04\x95' + struct.pack('<Q', 2**60) + b'N.',
    'a claim of a shape': pickle.dumps(torch.zeros(4).numpy(), 2).replace(
        b'K\x04\x85', b'\x8a\x06' + (2**40).to_bytes(6, 'little') + b'\x85', 1
    ),
    'a claim of a bytearray': b'\x80\x02cbuiltins\nbytearray\nJ'
    + struct.pack('<i', 2**30)
    + b'\x85R.',
    # one thing that is made into many, and what takes long to encode
    'an encoding that takes long': b'\x80\x02c_codecs\nencode\n'
    + text_of(60_000, 'ü')
    + b'X\x08\x00\x00\x00punycode\x86R.',
    **{
        f'copies by {name}': b'\x80\x02' + shared + b'q\x000]' + call * 4000 + b'.'
        for name, shared, call in (
            ('encoding', text_of(50_000), b'c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86Ra'),
            *(
                (name, b'(' + b'K\x01' * 50_000 + b't', f'c{name}\nh\x00\x85Ra'.encode())
                for name in ('torch\nSize', 'builtins\nset', 'collections\nCounter')
            ),
            (
                'collections\nOrderedDict',
                b'(' + b'(K\x01K\x02t' * 20_000 + b'l',
                b'ccollections\nOrderedDict\nh\x00\x85Ra',
            ),
        )
    },
    # depth, and what grows where it is walked through
    'depth': b'\x80\x02' + b']' * 20_000 + b'a' * 19_999 + b'.',
    'damaged': b'\x80\x04\x95\xff',
    'no end': b'\x80\x02' + b'N' * 1000,
    'a pop too many': b'\x80\x02000.',
}


def as_archive(content: bytes, folder: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    path = folder / 'hostile.pth'
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.writestr('hostile/data.pkl', content)
        archive.writestr('hostile/byteorder', b'little')
        archive.writestr('hostile/version', b'3\n')
    return path


def as_file(content: bytes, folder: Path) -> Path:
    path = folder / 'hostile.pkl'
    path.write_bytes(content)
    return path


def huge_tensor(folder: Path) -> Path:
    """A tensor of four numbers that claims 2^40."""
    written = io.BytesIO()
    torch.save({'weight': torch.zeros(4)}, written)
    with zipfile.ZipFile(written) as archive:
        names = {name: archive.read(name) for name in archive.namelist()}
    data = next(name for name in names if name.endswith('data.pkl'))
    claim = b'\x8a\x06' + (2**40).to_bytes(6, 'little')
    assert names[data].count(b'K\x04') == 2
    names[data] = names[data].replace(b'K\x04', claim)
    with zipfile.ZipFile(folder / 'hostile.pth', 'w') as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return folder / 'hostile.pth'


def expanded_tensor(folder: Path) -> Path:
    """A number that is to be 2^40 of them."""
    torch.save({'state_dict': {'weight': torch.zeros(1).expand(2**40)}}, folder / 'hostile.pth')
    return folder / 'hostile.pth'


def copied_arrays(folder: Path) -> Path:
    """A buffer of 50 KB of which 4,000 arrays are made."""
    size = struct.pack('<I', 50_000)
    shared = b'B' + size + bytes(50_000) + b'q\x000'
    shared += b'cnumpy\ndtype\n' + short('u1') + b'\x85Rq\x010'
    shared += b'J' + size + b'\x85q\x020' + text_of(1, 'C') + b'q\x030]'
    call = b'cnumpy.core.numeric\n_frombuffer\n(h\x00h\x01h\x02h\x03tRa'
    return as_file(b'\x80\x04' + shared + call * 4000 + b'.', folder)


def bomb(folder: Path) -> Path:
    """A megabyte that unpacks to a gigabyte."""
    path = folder / 'hostile.pth'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('hostile/data.pkl', b'\x80\x02N.')
        archive.writestr('hostile/version', b'3\n')
        with archive.open('hostile/data/0', 'w') as member:
            for _ in range(1024):
                member.write(bytes(2**20))
    return path


def bomb_of_a_pickle(folder: Path) -> Path:
    """As above, where the pickle itself is large."""
    path = folder / 'hostile.pth'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('hostile/version', b'3\n')
        with archive.open('hostile/data.pkl', 'w') as member:
            member.write(b'\x80\x02')
            for _ in range(1024):
                member.write(b'N0' * 2**19)
            member.write(b'N.')
    return path


def climbing(folder: Path) -> Path:
    """Names that lead out of the archive."""
    path = folder / 'hostile.pth'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(f'../../{MARKER}/data.pkl', b'\x80\x02N.')
        archive.writestr(f'/tmp/{MARKER}', b'x')
    return path


def tensors(header: object, folder: Path, length: int | None = None, data: bytes = b'') -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / 'hostile.safetensors'
    path.write_bytes(struct.pack('<Q', len(text) if length is None else length) + text + data)
    return path


def entry(dtype: str = 'F32', shape: object = (1,), offsets: tuple[int, int] = (0, 4)) -> dict:
    return {'weight': dict(dtype=dtype, shape=shape, data_offsets=offsets)}


FILES: dict[str, Callable[[Path], Path]] = {
    **{f'pickle: {name}': lambda f, c=c: as_file(c, f) for name, c in PICKLES.items()},
    **{
        f'archive: {name}': lambda folder, c=c: as_archive(c, folder) for name, c in PICKLES.items()
    },
    'archive: a tensor that claims a terabyte': huge_tensor,
    'archive: an expanded tensor': expanded_tensor,
    'pickle: copies of an array': copied_arrays,
    'archive: a bomb': bomb,
    'archive: a bomb of a pickle': bomb_of_a_pickle,
    'archive: names that climb': climbing,
    'safetensors: a header of exabytes': lambda f: tensors(b'{}', f, length=2**62),
    'safetensors: no header': lambda f: tensors(b'', f, length=0),
    'safetensors: not JSON': lambda f: tensors(b'{"weight": ', f),
    'safetensors: depth': lambda f: tensors(b'[' * 100_000, f),
    'safetensors: beyond the file': lambda f: tensors(entry(offsets=(0, 2**40)), f, data=b'abcd'),
    'safetensors: backwards': lambda f: tensors(entry(offsets=(4, 0)), f, data=b'abcd'),
    'safetensors: a shape too large': lambda f: tensors(entry(shape=(2**40,)), f, data=b'abcd'),
    'safetensors: an overflowing shape': lambda f: tensors(
        entry(shape=(2**33, 2**33)), f, data=b'abcd'
    ),
    'safetensors: an unknown dtype': lambda f: tensors(entry('OBJECT'), f, data=b'abcd'),
    'safetensors: a negative shape': lambda f: tensors(entry(shape=(-1,)), f, data=b'abcd'),
    'safetensors: metadata that is no JSON': lambda f: tensors(
        {'__metadata__': {'meta': '{"a": '}, **entry()}, f, data=b'abcd'
    ),
    'safetensors: metadata of depth': lambda f: tensors(
        {'__metadata__': {'meta': '[' * 100_000}, **entry()}, f, data=b'abcd'
    ),
}


def read(path: Path, folder: Path, sent: multiprocessing.connection.Connection) -> None:
    os.chdir(folder)
    signal.alarm(_SECONDS)
    with open('/proc/self/statm') as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEGABYTES * 2**20,) * 2)
    try:
        result = f'was read: {type(read_checkpoint(path)).__name__}'
    except CheckpointError as error:
        result = f'refused: {error}'
    except BaseException as error:
        result = f'{type(error).__name__}: {error}'
    sent.send(result)


def outcome(path: Path, folder: Path) -> str:
    """What reading it in a process of little memory and time comes to."""
    fork = multiprocessing.get_context('fork')
    received, sent = fork.Pipe(duplex=False)
    process = fork.Process(target=read, args=(path, folder, sent))
    process.start()
    sent.close()
    try:
        result = received.recv()
    except EOFError:
        process.join()
        result = f'ended with status {process.exitcode}'
    process.join()
    return result


linux = pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='limits need Linux')


@linux
@pytest.mark.parametrize('name', FILES)
def test_a_hostile_file_is_refused(name: str, tmp_path: Path) -> None:
    path = FILES[name](tmp_path)
    result = outcome(path, tmp_path)
    assert result.startswith('refused: '), result
    assert 'a bomb' not in name or 'it would unpack to' in result
    assert sorted(os.listdir(tmp_path)) == [path.name]
    assert not Path('/tmp', MARKER).exists()


@linux
@pytest.mark.parametrize('write', [as_file, as_archive])
@pytest.mark.parametrize(
    'content',
    [
        b'\x80\x02N\x85' + b'q\x00h\x00\x86' * 64 + b'.',
        b'\x80\x02]' + b'q\x00](h\x00h\x00e' * 64 + b'.',
    ],
    ids=['tuples', 'lists'],
)
def test_one_thing_in_many_places_is_looked_at_once(
    write: Callable[[bytes, Path], Path], content: bytes, tmp_path: Path
) -> None:
    assert outcome(write(content, tmp_path), tmp_path).startswith('was read: ')
