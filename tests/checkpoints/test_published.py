"""The authors' files: the table, fetching them from a server, and what can go wrong."""

from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmrest import ResT
from mmrest.backbones import BACKBONES
from mmrest.checkpoints import CheckpointError, CheckpointNotFoundError, load_pretrained
from mmrest.checkpoints import download as fetching
from mmrest.checkpoints import published as module
from mmrest.checkpoints.download import download, download_from_drive
from mmrest.checkpoints.published import find_published, local_file, obtain, published

# as families.py's, small
ARCH = dict(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8),
            sr_ratios=(8, 4, 2, 1), mlp_ratios=(4, 4, 4, 4))  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('MMREST_WEIGHTS', str(tmp_path / 'weights'))
    return tmp_path / 'weights'


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content``; ``cut`` is after how many bytes a connection breaks."""

    content = b''
    cut: int | None = None
    status = 200
    etag = '"one"'
    with_length = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}/weights.pth'


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get('Range')
        server.ranges.append(asked)
        start = 0
        if asked and self.headers.get('If-Range') == server.etag:
            start = int(asked.removeprefix('bytes=').removesuffix('-'))
        if start >= len(server.content) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else server.status)
        part = server.content[start:]
        if server.with_length:
            self.send_header('Content-Length', str(len(part)))
        self.send_header('ETag', server.etag)
        self.end_headers()
        self.wfile.write(part if server.cut is None else part[: server.cut])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """In the place of where ``mmrest://rest_small`` is, with a small model's weights."""
    server = Server()
    torch.save(ResT(ARCH, out_norm='none').state_dict(), tmp_path / 'made.pth')
    server.content = (tmp_path / 'made.pth').read_bytes()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    weights = replace(find_published('rest_small'), address=server.url, file='', code='')
    monkeypatch.setitem(published(), 'rest_small', weights)
    yield server
    server.shutdown()
    server.server_close()


def test_the_table_names_files_of_every_family_and_variant() -> None:
    fits = {(w.family, w.variant) for w in published().values()}
    for name, family in BACKBONES.items():
        assert {(name, variant) for variant in family.variants} <= fits, name
    assert {family for family, _ in fits} == {*BACKBONES}
    for name, weights in published().items():
        assert weights.name == name
        assert weights.licence
        assert weights.how != 'nowhere' or weights.note
        assert weights.how != 'by hand' or weights.code or 'folders' in weights.address
        # its weights may not be used in products
        assert ('non-commercial' in weights.licence) == (weights.family == 'P2T')
    files = [w.file_name for w in published().values()]
    assert len(files) == len({*files})


def test_a_file_is_fetched_once_and_its_checksum_recorded(server: Server, folder: Path) -> None:
    model = ResT(ARCH, out_norm='none')
    load_pretrained(model, 'mmrest://rest_small')
    file = folder / 'rest_small.pth'
    assert file.read_bytes() == server.content
    assert (folder / 'rest_small.pth.sha256').read_text().endswith('  rest_small.pth\n')
    load_pretrained(model, 'mmrest://rest_small')
    assert server.ranges == [None]
    assert not list(folder.glob('*.part*'))


def test_what_was_cut_off_goes_on(server: Server, folder: Path) -> None:
    server.cut = 1000
    with pytest.raises(CheckpointNotFoundError, match=r'rest_small is not here(.|\n)*1000'):
        obtain('rest_small')
    assert (folder / 'rest_small.pth.part').stat().st_size == 1000
    assert local_file(find_published('rest_small')) is None
    server.cut = None
    assert Path(obtain('rest_small')).read_bytes() == server.content
    assert server.ranges == [None, 'bytes=1000-']


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Server, folder: Path) -> None:
    server.cut = 1000
    with pytest.raises(CheckpointNotFoundError):
        obtain('rest_small')
    server.cut, server.etag = None, '"two"'
    server.content = server.content[::-1]
    assert Path(obtain('rest_small')).read_bytes() == server.content


def test_a_file_that_was_whole_but_not_yet_named_is_taken(server: Server, folder: Path) -> None:
    folder.mkdir()
    (folder / 'rest_small.pth.part').write_bytes(server.content)
    (folder / 'rest_small.pth.part.etag').write_text(server.etag)
    assert Path(obtain('rest_small')).read_bytes() == server.content


@pytest.mark.parametrize(
    ('content', 'status', 'message'),
    [
        (b'<html>Too many requests</html>', 200, 'is a web page'),
        (b'\n  <!DOCTYPE html><html></html>', 200, 'is a web page'),
        (b'', 200, 'is empty'),
        (b'gone', 404, '404'),
    ],
)
def test_what_is_no_file_is_not_kept(
    server: Server, folder: Path, content: bytes, status: int, message: str
) -> None:
    server.content, server.status = content, status
    with pytest.raises(CheckpointNotFoundError, match=message) as caught:
        obtain('rest_small')
    # where a person finds it
    assert f'Get it from {server.url}' in str(caught.value)
    assert f'put it at {folder / "rest_small.pth"}' in str(caught.value)
    assert not (folder / 'rest_small.pth').exists()


def test_no_server_is_no_long_wait(server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(CheckpointNotFoundError, match='cannot be fetched'):
        obtain('rest_small')


def test_where_a_server_is_gone_it_is_told_what_is_kept(server: Server, folder: Path) -> None:
    server.status = 503
    with pytest.raises(CheckpointNotFoundError) as caught:
        download(server.url, folder / 'a.pth')
    assert 'bytes are kept' not in str(caught.value)
    (folder / 'a.pth.part').write_bytes(bytes(1000))
    with pytest.raises(CheckpointNotFoundError, match='; 1000 bytes are kept, and the same'):
        download(server.url, folder / 'a.pth')


def test_a_damaged_file_is_named_and_one_of_another_model_too(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    obtain('rest_small')
    file = folder / 'rest_small.pth'
    file.write_bytes(server.content[:-1])
    with pytest.raises(CheckpointError, match=r'has changed since .*rest_small\.pth\.sha256'):
        obtain('rest_small')
    file.unlink()
    (folder / 'rest_small.pth.sha256').unlink()
    server.content = server.content[:5000]
    with pytest.raises(CheckpointError, match='no complete PyTorch checkpoint'):
        load_pretrained(ResT(ARCH, out_norm='none'), 'mmrest://rest_small')
    for path in folder.glob('rest_small.pth*'):
        path.unlink()
    torch.save(ResT({**ARCH, 'depths': (1, 2, 1, 1)}).state_dict(), tmp_path / 'other.pth')
    server.content = (tmp_path / 'other.pth').read_bytes()
    with pytest.raises(CheckpointError, match='does not fit'):
        load_pretrained(ResT(ARCH, out_norm='none'), 'mmrest://rest_small')


def test_a_file_that_a_person_put_there_is_taken(folder: Path) -> None:
    folder.mkdir()
    (folder / 'rest_base.pkl').write_bytes(b'x')
    assert obtain('mmrest://rest_base') == str(folder / 'rest_base.pkl')
    assert (folder / 'rest_base.pkl.sha256').exists()
    # under the authors' name too, where no other file has it
    (folder / 'cswin_tiny_224.pth').write_bytes(b'x')
    assert obtain('mmrest://cswin_tiny') == str(folder / 'cswin_tiny_224.pth')


def test_what_needs_a_person_says_so() -> None:
    with pytest.raises(CheckpointNotFoundError, match='access code rest') as caught:
        obtain('rest_base')
    assert 'without a person' in str(caught.value)
    with pytest.raises(CheckpointNotFoundError, match='Nobody can get it: the authors publish no'):
        obtain('pvtv2_b0_fpn')
    with pytest.raises(CheckpointError, match=r'did you mean .*rest_small'):
        obtain('rest_smal')
    # the beginning of names, of which no other is spelled alike
    with pytest.raises(CheckpointError, match=r'did you mean mvitv2_huge_cls_imagenet22k or'):
        obtain('mvitv2_huge')


def test_files_on_google_drive_are_left_to_gdown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = find_published('twinssvt_small')
    assert weights.how == 'drive'
    monkeypatch.setitem(sys.modules, 'gdown', None)
    with pytest.raises(CheckpointNotFoundError, match='pip install gdown'):
        obtain(weights.name)
    asked: dict[str, object] = {}

    def download(id: str, output: str, resume: bool) -> str:
        asked.update(id=id, resume=resume)
        Path(output).write_bytes(b'weights')
        return output

    monkeypatch.setitem(sys.modules, 'gdown', SimpleNamespace(download=download))
    assert not folder.exists()
    monkeypatch.setenv('MMREST_WEIGHTS', str(folder / 'in' / 'folders'))
    assert Path(obtain(weights.name)).read_bytes() == b'weights'
    assert asked == dict(id=weights.drive_id, resume=True)


def test_what_google_drive_refuses_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError('Too many users have viewed or downloaded this file recently')

    for answer, said in ((refuse, 'Too many users'), (lambda **_: None, 'gdown cannot fetch it')):
        monkeypatch.setitem(sys.modules, 'gdown', SimpleNamespace(download=answer))
        with pytest.raises(CheckpointNotFoundError, match=said):
            obtain('twinssvt_small')
    assert not list(folder.glob('*.pth'))


def test_what_another_process_fetched_meanwhile_is_taken(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'gdown', SimpleNamespace(download=None))
    target = folder / 'there.pth'
    folder.mkdir()
    target.write_bytes(b'weights')
    download(server.url, target)
    download_from_drive('an id', target)
    assert target.read_bytes() == b'weights'
    assert server.ranges == []


def test_a_long_download_says_how_far_it_is(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    server.content = bytes(4 * 10**6)
    seconds = iter([0, 0, *range(1, 100)])
    monkeypatch.setattr(fetching, '_SECONDS_BETWEEN_REPORTS', 2)
    monkeypatch.setattr(fetching, 'time', SimpleNamespace(monotonic=lambda: next(seconds)))
    download(server.url, folder / 'large.pth')
    # 1 MiB a second: after two of them half is there, and after four all
    assert capsys.readouterr().err.splitlines() == [
        'large.pth: 2 of 4 MB, 1.0 MB/s, 2 s left',
        'large.pth: 4 of 4 MB, 1.0 MB/s, 0 s left',
    ]


@pytest.mark.parametrize('with_length', [True, False])
def test_the_speed_is_that_of_what_is_fetched_now(
    with_length: bool,
    server: Server,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """The second of three seconds is reported, after 2 of 3 MiB; one was there before."""
    server.content, server.with_length = bytes(3 * 2**20), with_length
    seconds = iter([100, 100, *range(101, 200)])
    monkeypatch.setattr(fetching, '_SECONDS_BETWEEN_REPORTS', 1)
    monkeypatch.setattr(fetching, 'time', SimpleNamespace(monotonic=lambda: next(seconds)))
    folder.mkdir()
    (folder / 'large.pth.part').write_bytes(bytes(2**20))
    (folder / 'large.pth.part.etag').write_text(server.etag)
    download(server.url, folder / 'large.pth')
    lines = capsys.readouterr().err.splitlines()
    if with_length:
        assert lines[0] == 'large.pth: 2 of 3 MB, 1.0 MB/s, 1 s left'
    else:
        assert lines[0] == 'large.pth: 2 MB, 1.0 MB/s'
    assert (folder / 'large.pth').stat().st_size == 3 * 2**20


def test_what_is_left_of_a_file_that_somebody_removed_is_no_beginning(
    server: Server, folder: Path
) -> None:
    folder.mkdir()
    (folder / 'rest_small.pth.part.etag').write_text(server.etag)
    assert Path(obtain('rest_small')).read_bytes() == server.content
    assert server.ranges == [None]


def test_weights_in_a_folder_that_cannot_be_written_need_no_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(path)

    (tmp_path / 'weights.pth').write_bytes(b'weights')
    monkeypatch.setattr(fetching, 'record_checksum', refuse)
    assert fetching.is_same(tmp_path / 'weights.pth')


def test_the_folder_is_the_caches_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('MMREST_WEIGHTS')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert module.weights_folder() == tmp_path / 'mmrest/weights'


def test_where_a_file_is_and_where_it_goes_is_told_in_full(folder: Path) -> None:
    bare = replace(
        find_published('rest_small'),
        address='https://a',
        code='',
        others='',
        note='',
        licence='MIT',
    )
    place = folder / bare.file_name
    assert module.how_to_get(bare).splitlines() == [
        '  Get it from https://a',
        f'  and put it at {place}',
        '  Licence: MIT',
    ]
    full = replace(bare, code='1234', others='https://b', note='the smaller one')
    assert module.how_to_get(full).splitlines() == [
        '  Get it from https://a (access code 1234)',
        '  or from https://b',
        f'  and put it at {place}',
        '  (the smaller one)',
        '  Licence: MIT',
    ]
    gone = module.how_to_get(replace(full, address=''))
    assert gone == '  Nobody can get it: the smaller one.'


def test_names_like_it_are_told_or_where_all_are() -> None:
    with pytest.raises(CheckpointError, match=r'; did you mean rest_small or \w+( or \w+)?\?$'):
        find_published('mmrest://rest_smal')
    with pytest.raises(CheckpointError, match=r'weights; `python -m mmrest weights` has all$'):
        find_published('mmrest://zzz')


def test_the_folder_is_in_the_home_without_a_cache_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('MMREST_WEIGHTS')
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setattr(Path, 'home', lambda: tmp_path)
    assert module.weights_folder() == tmp_path / '.cache/mmrest/weights'
