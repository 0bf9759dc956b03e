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
PAIRS = b'q\x00h\x00\x86'  # a pair of what is on the stack twice
# [[[...], ...], ...]: 64 lists that are empty when they are put into each other, twice
FILLED_FROM_ABOVE = (
    b'\x80\x02'
    + b''.join(b']q' + bytes([k]) + b'0' for k in range(64))
    + b''.join(b'h' + bytes([k]) + (b'h' + bytes([k + 1]) + b'a') * 2 + b'0' for k in range(63))
    + b'h\x00'
)
# the same, and each is also in the one below it: whoever begins there finds nothing but circles
IN_A_CIRCLE = (
    FILLED_FROM_ABOVE[:-2]
    + b''.join(b'h' + bytes([k + 1]) + b'h' + bytes([k]) + b'a0' for k in range(63))
    + b'](h\x3fh\x00e'
)


def number(value: int) -> bytes:
    content = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
    return b'\x8a' + bytes([len(content)]) + content


# Python's hash of a number is its rest to 2^61 - 1
NUMBERS_OF_ONE_HASH = [number(k * (2**61 - 1)) for k in range(8, 60_000)]
KEYS_OF_ONE_HASH = {
    'numbers': NUMBERS_OF_ONE_HASH,
    'pairs': [key + b'K\x01\x86' for key in NUMBERS_OF_ONE_HASH],
}
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
    'a dtype with fields': b'\x80\x02cnumpy\ndtype\n'
    + text_of(2, '1').replace(b'11', b'f4')
    + b'\x85R(K\x03V|\nNV(a)\nNt'
    + b'b.',
    'an array of no dtype': b'\x80\x02cnumpy.core.numeric\n_frombuffer\n(Vab\nVf4\nK\x01VC\ntR.',
    'a scalar of no dtype': b'\x80\x02cnumpy.core.multiarray\nscalar\nVf4\nVabcd\n\x86R.',
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
    'a history of texts, each as long as the longest': b'\x80\x02'
    + b'cmmengine.logging.history_buffer\nHistoryBuffer\n)\x81}(V_log_history\n]('
    + text_of(500_000)
    + b'Va\n' * 3000
    + b'eV_count_history\n]('
    + b'K\x01' * 3001
    + b'eV'
    + b'max_length\nM\xff\xffub.',
    # one thing in so many places that they cannot be walked through
    'a tuple of 2^64': b'\x80\x02N\x85' + PAIRS * 64 + b'.',
    'lists of 2^64': b'\x80\x02]' + b'q\x00](h\x00h\x00e' * 64 + b'.',
    'lists of 2^64, filled from above': FILLED_FROM_ABOVE + b'.',
    'paths in a circle': IN_A_CIRCLE + b'.',
    'a key of 2^64': b'\x80\x02}N\x85' + PAIRS * 64 + b'Ns.',
    'keys of 2^64': b'\x80\x02}(N\x85' + PAIRS * 64 + b'Nu.',
    'a key of 2^64 in a dictionary of pairs': b'\x80\x02(N\x85' + PAIRS * 64 + b'Nd.',
    'a key of 2^64 in a set': b'\x80\x04\x8f(N\x85' + PAIRS * 64 + b'\x90.',
    'a key of 2^64 in a set that cannot be changed': b'\x80\x04(N\x85' + PAIRS * 64 + b'\x91.',
    'a call of 2^64': b'\x80\x02N\x85' + PAIRS * 64 + b')R.',
    'a new object of 2^64': b'\x80\x02N\x85' + PAIRS * 64 + b')\x81.',
    'a persistent id of 2^64': b'\x80\x02N\x85' + PAIRS * 64 + b'Q.',
    'a persistent id of lists of 2^64': FILLED_FROM_ABOVE + b'\x85Q.',
    'a storage of 2^64': b'\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nN\x85'
    + PAIRS * 64
    + b'V'
    + b'cpu\nK\x01tQ.',
    **{
        f'a call of {name} with 2^64': b'\x80\x02c'
        + name.replace(' ', '\n').encode()
        + b'\nN\x85'
        + PAIRS * 64
        + b'\x85R.'
        for name in ('numpy dtype', '_codecs encode', 'collections OrderedDict', 'torch Size')
    },
    # keys that all have one hash, each of which is compared with each
    **{
        f'{name} of one hash': b'\x80\x02}(' + b''.join(key + b'N' for key in keys) + b'u.'
        for name, keys in KEYS_OF_ONE_HASH.items()
    },
    **{
        f'a call of {name} with numbers of one hash': b'\x80\x02c'
        + name.replace(' ', '\n').encode()
        + b'\n('
        + b''.join(KEYS_OF_ONE_HASH[keys])
        + b't\x85R.'
        for name, keys in (
            ('builtins set', 'numbers'),
            ('collections Counter', 'numbers'),
            ('collections OrderedDict', 'pairs'),
        )
    },
    # that may be chosen so that a dictionary looks at one place after the other for each
    'keys that are chosen numbers': b'\x80\x02}('
    + b''.join(number(k) + b'N' for k in range(2**17, 2**17 + 40_000))
    + b'u.',
    'a large number that is hashed often': b'\x80\x02}(\x8b'
    + struct.pack('<i', 100_000)
    + b'\x01' * 100_000
    + b'q\x00N'
    + b'h\x00N' * 100_000
    + b'u.',
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


def as_old_file(content: bytes, folder: Path) -> Path:
    """As torch wrote before it wrote archives."""
    written = io.BytesIO()
    torch.save(None, written, _use_new_zipfile_serialization=False)
    before, found, after = written.getvalue().rpartition(b'\x80\x02N.')
    assert found
    path = folder / 'hostile.pth'
    path.write_bytes(before + content + after)
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


def old_huge_tensor(folder: Path, claimed: int = 2**40) -> Path:
    """As above, in a file as torch wrote before it wrote archives."""
    path = folder / 'hostile.pth'
    torch.save({'weight': torch.zeros(4)}, path, _use_new_zipfile_serialization=False)
    before, storage, tensor = path.read_bytes().partition(b'storage')
    claim = b'\x8a\x06' + claimed.to_bytes(6, 'little')
    assert tensor.count(b'K\x04') == 2
    path.write_bytes(before + storage + tensor.replace(b'K\x04', claim))
    return path


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
    """A few megabytes that unpack to a gigabyte."""
    path = folder / 'hostile.pth'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr('hostile/data.pkl', b'\x80\x02N.')
        archive.writestr('hostile/version', b'3\n')
        with archive.open('hostile/data/0', 'w') as member:
            for _ in range(1024):
                member.write(bytes(2**20))
    return path


def bomb_of_a_pickle(folder: Path) -> Path:
    """As above, where the pickle itself is large."""
    path = folder / 'hostile.pth'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr('hostile/version', b'3\n')
        with archive.open('hostile/data.pkl', 'w') as member:
            member.write(b'\x80\x02')
            for _ in range(1024):
                member.write(b'N0' * 2**19)
            member.write(b'N.')
    return path


def two_directories(folder: Path) -> Path:
    """A bomb for who looks where the end says, and nothing for who looks right before it."""
    path = folder / 'hostile.pth'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('hostile/data.pkl', b'\x80\x02' + b'N0' * 2**22 + b'N.')
        archive.writestr('hostile/version', b'3\n')
    content = path.read_bytes()
    end = content.rindex(b'PK\5\6')
    size, place = struct.unpack_from('<LL', content, end + 12)
    shown = content[place : place + size].replace(struct.pack('<L', 2**23 + 4), b'\1\0\0\0')
    assert len(shown) == size
    path.write_bytes(content[:end] + shown + content[end:])
    return path


def overlapping(folder: Path) -> Path:
    """Many entries that are all the same megabyte."""
    path = folder / 'hostile.pth'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('hostile/data.pkl', b'\x80\x02' + b'N0' * 2**19 + b'N.')
    content = path.read_bytes()
    place = content.index(b'PK\1\2')
    entry, many = content[place : content.index(b'PK\5\6')], 60_000
    end = struct.pack('<HHHHLLH', 0, 0, many, many, many * len(entry), place, 0)
    path.write_bytes(content[:place] + entry * many + b'PK\5\6' + end)
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
    **{f'old file: {name}': lambda f, c=c: as_old_file(c, f) for name, c in PICKLES.items()},
    'archive: a tensor that claims a terabyte': huge_tensor,
    'archive: an expanded tensor': expanded_tensor,
    'old file: a tensor that claims a terabyte': old_huge_tensor,
    'old file: a tensor that claims a gigabyte': lambda f: old_huge_tensor(f, 2**28),
    'pickle: copies of an array': copied_arrays,
    'archive: a bomb': bomb,
    'archive: a bomb of a pickle': bomb_of_a_pickle,
    'archive: two directories': two_directories,
    'archive: entries that overlap': overlapping,
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
@pytest.mark.parametrize('write', [as_file, as_archive, as_old_file])
@pytest.mark.parametrize(
    'value',
    [
        [tuple(range(40))] * 200,
        {'groups': [{'betas': BETAS, 'history': [[k] for k in range(1000)]} for BETAS in [(1, 2)]]},
        {(k, 'pair'): k for k in range(1000)},
        {2**70 + k: k for k in range(1000)},
        dict.fromkeys(range(30_000)),  # as of classes or parameters by their numbers
    ],
    ids=['in many places', 'groups', 'pairs as keys', 'large keys', 'many keys'],
)
def test_what_only_looks_like_it_is_read(
    write: Callable[[bytes, Path], Path], value: object, tmp_path: Path
) -> None:
    path = write(pickle.dumps(value, 2), tmp_path)
    assert read_checkpoint(path) == value
    assert outcome(path, tmp_path) == f'was read: {type(value).__name__}'
