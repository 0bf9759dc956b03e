from __future__ import annotations

import argparse
import functools
import hashlib
import http.server
import io
import os
import pickle
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmrest import ResT
from mmrest.backbones import PyramidBackbone
from mmrest.checkpoints import (
    CheckpointError,
    CheckpointNotFoundError,
    dataset_meta,
    load_pretrained,
    read_checkpoint,
    require_fit,
    save_safetensors,
    use_safe_reader,
)
from tests.parity import recorded

ARCH = dict(
    embed_dims=(8, 16, 24, 32),
    depths=(1, 1, 1, 1),
    num_heads=(1, 2, 4, 8),
    sr_ratios=(8, 4, 2, 1),
    mlp_ratios=(2, 2, 2, 2),
)


def backbone(**options: Any) -> ResT:
    return ResT(**{'arch': ARCH, **options})


def authors_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our trunk under the authors' key names."""
    named = {}
    for key, value in state.items():
        top, index, *rest = key.split('.')
        if top != 'stages':
            continue
        stage, inner = int(index) + 1, '.'.join(rest)
        if inner.startswith('embed.'):
            place = 'stem' if stage == 1 else f'patch_embed_{stage}'
            named[f'{place}.{inner.removeprefix("embed.")}'] = value
        else:
            named[f'stage{stage}.{inner.removeprefix("blocks.")}'] = value
    return named


@pytest.fixture
def imagenet() -> dict[str, Tensor]:
    state = authors_names(backbone().state_dict())
    last = dict(weight=torch.rand(32), bias=torch.rand(32))
    head = {'head.weight': torch.rand(10, 32), 'head.bias': torch.rand(10)}
    return {**state, **{f'norm.{k}': v for k, v in last.items()}, **head}


def detection_norms() -> dict[str, Tensor]:
    widths = {1: 8, 2: 16, 3: 24}
    return {
        f'norm{i}.{kind}': torch.rand(width)
        for i, width in widths.items()
        for kind in ('weight', 'bias')
    }


def load(file: Path, **options: Any) -> ResT:
    """The way a user's config loads it."""
    pretrained = {k: options.pop(k) for k in ('sha256', 'prefix') if k in options}
    init_cfg = dict(type='Pretrained', checkpoint=str(file), **pretrained)
    model = backbone(init_cfg=init_cfg, **options)
    model.init_weights()
    return model


def assert_trunk_is(model: ResT, state: dict[str, Tensor]) -> None:
    for key, value in authors_names(model.state_dict()).items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)


LAYOUTS = {
    'bare': lambda state: state,
    'model': lambda state: {'model': state, 'epoch': 3, 'args': argparse.Namespace(lr=1e-3)},
    'state_dict': lambda state: {'state_dict': state, 'meta': {}},
    'averaged': lambda state: {
        'state_dict': {k: 0 * v for k, v in state.items()},
        'state_dict_ema': state,
    },
    'nested twice': lambda state: {'model': {'state_dict': state}},
    'module': lambda state: {'model': {f'module.{k}': v for k, v in state.items()}},
    'compiled': lambda state: {f'_orig_mod.{k}': v for k, v in state.items()},
    'numpy': lambda state: {'model': {k: v.numpy() for k, v in state.items()}},
    'detectron2': lambda state: {
        'model': {
            **{f'backbone.bottom_up.{k}': v for k, v in state.items()},
            'backbone.fpn_lateral3.weight': torch.rand(4),
            'head.cls_subnet.0.weight': torch.rand(4),
        },
        'iteration': 7,
    },
    'mmdet': lambda state: {
        'state_dict': {
            **{f'backbone.{k}': v for k, v in state.items()},
            'neck.lateral_convs.0.weight': torch.rand(4),
        }
    },
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_layout_of_the_authors_weights(
    layout: str, imagenet: dict[str, Tensor], tmp_path: Path
) -> None:
    file = tmp_path / 'weights.pth'
    torch.save(LAYOUTS[layout](imagenet), file)
    model = load(file)
    assert_trunk_is(model, imagenet)
    torch.testing.assert_close(model.branch_norms['3'].weight, imagenet['norm.weight'])
    assert torch.equal(model.branch_norms['0'].weight, torch.ones(8))
    assert_trunk_is(load(file, out_norm='none'), imagenet)


def test_old_format_and_half_precision(imagenet: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / 'weights.pth'
    half = {k: v.half() if v.is_floating_point() else v for k, v in imagenet.items()}
    torch.save({'model': half}, file, _use_new_zipfile_serialization=False)
    model = load(file)
    weight = model.stages[0].embed.conv1.weight
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, half['stem.conv1.weight'].float())


@pytest.mark.parametrize('out_norm', ['branch', 'trunk'])
def test_detection_files_bring_their_output_norms(
    out_norm: str, imagenet: dict[str, Tensor], tmp_path: Path
) -> None:
    norms = detection_norms()
    file = tmp_path / 'weights.pth'
    torch.save(LAYOUTS['detectron2']({**imagenet, **norms}), file)
    model = load(file, out_norm=out_norm)
    loaded = getattr(model, f'{out_norm}_norms')
    for i in (1, 2, 3):
        torch.testing.assert_close(loaded[str(i - 1)].weight, norms[f'norm{i}.weight'])
    torch.testing.assert_close(loaded['3'].bias, imagenet['norm.bias'])


def test_norms_of_the_trunk_are_not_dropped_silently(
    imagenet: dict[str, Tensor], tmp_path: Path
) -> None:
    file = tmp_path / 'weights.pth'
    torch.save({**imagenet, **detection_norms()}, file)
    with pytest.raises(CheckpointError, match=r"norm1\.bias.*\n.*\n.*out_norm='trunk'"):
        load(file, out_norm='none')
    with pytest.raises(CheckpointError, match=r'left over: norm1'):
        load(file, out_norm='trunk', out_indices=(1, 2, 3))
    load(file, out_norm='branch', out_indices=(1, 2, 3))


@pytest.mark.parametrize('out_indices', [(0,), (1, 2), (0, 1, 2, 3)])
@pytest.mark.parametrize('out_norm', ['none', 'branch', 'trunk'])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_own_files_come_back(
    out_norm: str, out_indices: tuple[int, ...], suffix: str, tmp_path: Path
) -> None:
    saved = backbone(out_norm=out_norm, out_indices=out_indices)
    file = tmp_path / f'own{suffix}'
    if suffix == '.pth':
        torch.save(saved.state_dict(), file)
    else:
        save_safetensors(saved.state_dict(), str(file), {})
    model = load(file, out_norm=out_norm, out_indices=out_indices)
    for key, value in model.state_dict().items():
        assert torch.equal(value, saved.state_dict()[key])


@pytest.mark.parametrize('out_norm', ['branch', 'trunk'])
def test_own_file_with_more_levels_than_needed(out_norm: str, tmp_path: Path) -> None:
    file = tmp_path / 'own.pth'
    torch.save(backbone(out_norm=out_norm).state_dict(), file)
    load(file, out_norm=out_norm, out_indices=(0, 1))
    if out_norm == 'branch':
        load(file, out_norm=out_norm, out_indices=(1, 2))
    else:  # the first norm changes what comes after it
        with pytest.raises(CheckpointError, match=r'left over: trunk_norms\.0'):
            load(file, out_norm=out_norm, out_indices=(1, 2))


def test_own_branch_norms_do_not_become_trunk_norms(tmp_path: Path) -> None:
    file = tmp_path / 'own.pth'
    torch.save(backbone(out_norm='branch').state_dict(), file)
    with pytest.raises(CheckpointError, match=r'missing: trunk_norms.*\n.*left over: branch_norms'):
        load(file, out_norm='trunk')


def test_a_prefix_chooses_the_part(imagenet: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / 'weights.pth'
    student = {f'student.backbone.{k}': torch.zeros_like(v) for k, v in imagenet.items()}
    torch.save({**student, **{f'teacher.backbone.{k}': v for k, v in imagenet.items()}}, file)
    assert_trunk_is(load(file, prefix='teacher.backbone'), imagenet)
    with pytest.raises(CheckpointError, match=r"under 'tutor\.'; its keys begin with student"):
        load(file, prefix='tutor')


def test_misfits_are_named_and_nothing_is_loaded(
    imagenet: dict[str, Tensor], tmp_path: Path
) -> None:
    file = tmp_path / 'weights.pth'
    for change, message in (
        (lambda s: s.pop('stage2.0.attn.q.weight'), r'missing: stages\.1\.blocks\.0\.attn\.q\.w'),
        (lambda s: s.update(extra=torch.zeros(1)), 'left over: extra'),
        (lambda s: s.update({'stem.conv3.weight': torch.zeros(1)}), r'\(1,\) instead of \(8, 4, 3'),
    ):
        state = dict(imagenet)
        change(state)
        torch.save({'model': state}, file)
        model = backbone()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with pytest.raises(CheckpointError, match=message):
            load_pretrained(model, str(file))
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_the_wrong_variant_is_recognised(tmp_path: Path) -> None:
    record = recorded.read('rest_lite')
    file = tmp_path / 'lite.pth'
    torch.save({k: torch.zeros(shape) for k, shape in record['checkpoint'].items()}, file)
    with pytest.raises(CheckpointError, match='seems to be ResT lite'):
        load_pretrained(ResT('small'), str(file))
    for arch in ('lite', 'small', 'base', 'large'):
        table = recorded.read(f'rest_{arch}')['checkpoint']
        state = {k: torch.empty(shape, device='meta') for k, shape in table.items()}
        assert PyramidBackbone.guess_variant(state) == f'ResT {arch}'


def test_another_argument_of_the_same_variant_is_told(tmp_path: Path) -> None:
    file = tmp_path / 'lite.pth'
    torch.save(ResT('lite', out_norm='branch').state_dict(), file)
    said = 'seems to be ResT lite, and so does this backbone; other arguments differ'
    with pytest.raises(CheckpointError, match=said) as caught:
        load_pretrained(ResT('lite', out_norm='branch', in_channels=4), str(file))
    assert "adapt_in_channels='mean' in init_cfg" in str(caught.value)
    state = torch.load(file) | {'more': torch.zeros(1)}
    torch.save(state, file)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_pretrained(ResT('lite', out_norm='branch'), str(file))
    assert 'adapt_in_channels' not in str(caught.value)
    with pytest.raises(CheckpointError, match=r'seems to be ResT lite\.'):
        load_pretrained(ResT('small'), str(file))


def test_a_foreign_file_is_of_no_variant(tmp_path: Path) -> None:
    file = tmp_path / 'foreign.pth'
    torch.save(nn.Linear(2, 2).state_dict(), file)
    with pytest.raises(CheckpointError, match='of no variant that mmrest knows'):
        load_pretrained(backbone(), str(file))


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


class EvalPayload:
    def __reduce__(self) -> tuple:
        return eval, ("__import__('os').system('true')",)


class GetattrPayload:
    """Reaches for more of HistoryBuffer than its own statistics."""

    def __reduce__(self) -> tuple:
        return getattr, (HistoryBuffer, '__init__')


class ForgedState:
    """An object whose pickle names ``function`` and then gives its result a state of our choice."""

    def __init__(self, function: Any, args: tuple, state: Any) -> None:
        self.reduced = function, args, state

    def __reduce__(self) -> tuple:
        return self.reduced


def test_numpy_state_cannot_turn_bytes_into_pointers(tmp_path: Path) -> None:
    file = tmp_path / 'forged.pth'
    reconstruct = np.zeros(1).__reduce__()[0]
    fields = {'f': (np.dtype('O'), 0)}
    pointers = ForgedState(np.dtype, ('V8', False, True), (3, '|', None, ('f',), fields, 8, 1, 0))
    counted = ForgedState(np.dtype, ('f8', False, True), (3, '<', None, ('f',), fields, 8, 1, 63))
    array = (1, (1,), np.dtype('f8'), False, b'A' * 8)
    for forged in (
        pointers,
        counted,
        np.array([None], dtype=object),
        np.zeros(1, [('a', 'f8')]),
        ForgedState(reconstruct, (np.ndarray, (0,), b'b'), (*array[:2], pointers, *array[3:])),
        ForgedState(np.ndarray, ((1,), np.dtype('f8')), array),
    ):
        torch.save({'state_dict': {}, 'meta': {'classes': forged}}, file)
        with pytest.raises(CheckpointError, match='is refused'):
            read_checkpoint(file)


@pytest.mark.parametrize('zipped', [True, False])
def test_code_is_never_run(zipped: bool, tmp_path: Path) -> None:
    file, marker = tmp_path / 'bad.pth', tmp_path / 'ran'
    for payload in (Payload(marker), EvalPayload(), GetattrPayload()):
        checkpoint = {'state_dict': {'a': torch.zeros(1)}, 'meta': payload}
        torch.save(checkpoint, file, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r'is refused: to read it, .* can run code'):
            read_checkpoint(file)
    assert not marker.exists()
    file.write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(file)
    assert 'weights_only' not in str(error.value)
    assert not marker.exists()


def test_damaged_files_are_described(imagenet: dict[str, Tensor], tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(imagenet, buffer)
    whole = buffer.getvalue()
    save_safetensors(imagenet, str(tmp_path / 'whole.safetensors'), {})
    safe = (tmp_path / 'whole.safetensors').read_bytes()
    for name, content, message in (
        ('empty.pth', b'', 'the file is empty'),
        ('short.pth', whole[: len(whole) // 2], 'cut short'),
        ('page.pth', b'<!DOCTYPE html><html>login</html>', 'web page'),
        ('pointer.pth', b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
        ('noise.pth', bytes(range(256)) * 8, 'no complete PyTorch checkpoint: it is damaged, or'),
        ('text.pth', b'hello', 'or something else .it begins with'),
        ('short.safetensors', safe[: len(safe) // 2], 'no complete safetensors'),
        ('noise.safetensors', b'x' * 200, 'no complete safetensors'),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path / name)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth is not there'):
        load(tmp_path / 'nowhere.pth')
    with pytest.raises(CheckpointNotFoundError, match='is a folder'):
        load(tmp_path)


def test_files_without_a_model_are_named(tmp_path: Path) -> None:
    file = tmp_path / 'odd.pth'
    for content, message in (([1, 2], 'a list'), ({'epoch': 3}, 'the keys epoch'), ({}, 'no tens')):
        torch.save(content, file)
        with pytest.raises(CheckpointError, match=message):
            load(file)


def test_the_checksum_is_checked(imagenet: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / 'weights.pth'
    torch.save(imagenet, file)
    load(file, sha256=hashlib.sha256(file.read_bytes()).hexdigest().upper())
    with pytest.raises(CheckpointError, match=r'has SHA-256 \w+, expected 0000'):
        load(file, sha256='0' * 64)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """Address and folder of a web server; downloads go to a folder of this test."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    for proxy in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(proxy, raising=False)
    folder = tmp_path / 'served'
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    httpd = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{httpd.server_port}', folder
    httpd.shutdown()


def test_urls(imagenet: dict[str, Tensor], server: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = server
    file = folder / 'rest.pth'
    torch.save(imagenet, file)
    checksum = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(CheckpointError, match='has SHA-256'):
        load(f'{address}/rest.pth', sha256='0' * 64)
    assert_trunk_is(load(f'{address}/rest.pth', sha256=checksum), imagenet)
    file.unlink()
    assert_trunk_is(load(f'{address}/rest.pth', sha256=checksum), imagenet)  # kept from before
    with pytest.raises(CheckpointNotFoundError, match='cannot be fetched'):
        load(f'{address}/other.pth')
    assert not list((tmp_path / 'cache').rglob('*.tmp'))


def test_training_checkpoints_of_mmengine_are_read(tmp_path: Path) -> None:
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    checkpoint = {
        'meta': {'epoch': 1, 'cfg': 'model = dict()', 'dataset_meta': {'classes': ('a', 'b')}},
        'state_dict': {'a': torch.zeros(1)},
        'message_hub': {
            'log_scalars': {'train/loss': history},
            'runtime_info': {
                'best': np.float64(0.5),
                'step': np.int64(3),
                'name': np.array(['a']),
                'grid': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
                'big': np.arange(3, dtype='>i4'),
                'window': slice(0, 3),
            },
            'resumed_keys': {'train/loss': True},
        },
        'optimizer': torch.optim.AdamW([torch.zeros(1)]).state_dict(),
        'random_state': (random.getstate(), np.random.get_state(), torch.get_rng_state()),
    }
    file = tmp_path / 'epoch_1.pth'
    torch.save(checkpoint, file)
    read = read_checkpoint(file)
    restored = read['message_hub']['log_scalars']['train/loss']
    assert type(restored) is HistoryBuffer
    assert restored.statistics('mean') == 1.5
    restored.update(6.0)
    assert restored.max() == 6.0
    for key, value in checkpoint['message_hub']['runtime_info'].items():
        found = read['message_hub']['runtime_info'][key]
        assert type(found) is type(value)
        assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value
    assert read['meta'] == checkpoint['meta']
    assert read['random_state'][0] == random.getstate()
    assert np.array_equal(read['random_state'][1][1], np.random.get_state()[1])
    # and once more, as a resumed training writes it
    torch.save(read, file)
    assert read_checkpoint(file)['message_hub']['runtime_info']['best'] == 0.5


def test_mmengine_reads_through_the_safe_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    use_safe_reader()
    file = tmp_path / 'training.pth'
    meta = {'epoch': 1, 'config': 'import os', 'cfg': 'a = 1'}
    torch.save({'state_dict': {}, 'meta': meta}, file)
    # 'config' would be executed by Runner.resume
    assert CheckpointLoader.load_checkpoint(str(file))['meta'] == {'epoch': 1, 'cfg': 'a = 1'}
    torch.save({'state_dict': {}, 'x': EvalPayload()}, file)
    with pytest.raises(CheckpointError, match='is refused'):
        CheckpointLoader.load_checkpoint(str(file))


def test_a_whole_model_must_fit(tmp_path: Path) -> None:
    file = tmp_path / 'model.pth'
    torch.save({'state_dict': nn.Linear(2, 3).state_dict()}, file)
    checkpoint = read_checkpoint(file)
    require_fit(nn.Linear(2, 3), checkpoint, str(file))
    with pytest.raises(CheckpointError, match=r'does not fit the Linear of the config.\n.*weight'):
        require_fit(nn.Linear(2, 4), checkpoint, str(file))
    with pytest.raises(CheckpointError, match=r'missing: 0\.bias, 0\.weight'):
        require_fit(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3)), checkpoint, str(file))


class _Runs:
    def __reduce__(self) -> tuple:
        return os.system, ('true',)


@pytest.mark.parametrize('protocol', [2, 4, 5])
def test_pickles_of_arrays_as_detectron2_writes_them(protocol: int, tmp_path: Path) -> None:
    arrays = {'weight': np.arange(6.0, dtype='f4').reshape(2, 3), 'count': np.array(3)}
    file = tmp_path / 'model.pkl'
    file.write_bytes(pickle.dumps({'model': arrays, '__author__': 'x'}, protocol))
    found = read_checkpoint(file)
    assert found['__author__'] == 'x'
    for key, array in arrays.items():
        assert np.array_equal(found['model'][key], array)
    file.write_bytes(pickle.dumps({'model': {'weight': _Runs()}}, protocol))
    with pytest.raises(CheckpointError, match=r'posix\.system'):
        read_checkpoint(file)
    # an attribute on what the file names, for all that this process reads later
    named = b'cnumpy\ndtype\n'
    file.write_bytes(b'\x80\x02' + named + b'N}X\x05\x00\x00\x00valueX\x01\x00\x00\x00Os\x86b.')
    with pytest.raises(CheckpointError, match='is refused'):
        read_checkpoint(file)
    whole = pickle.dumps({'model': arrays}, protocol)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match='damaged'):
        read_checkpoint(file)


def test_safetensors_keep_what_was_said_of_them(tmp_path: Path) -> None:
    meta = {'dataset_meta': {'classes': ['a', 'b']}, 'epoch': 3}
    path = tmp_path / 'model.safetensors'
    save_safetensors({'weight': torch.arange(6.0).view(2, 3)}, str(path), meta)
    read = read_checkpoint(path)
    assert read['meta'] == meta
    assert read['state_dict'].keys() == {'weight'}
    assert torch.equal(read['state_dict']['weight'], torch.arange(6.0).view(2, 3))
    # transformers reads no file without it
    with safetensors.safe_open(path, framework='pt') as file:
        assert file.metadata()['format'] == 'pt'
    safetensors.torch.save_file({'weight': torch.ones(1)}, path)
    assert read_checkpoint(path)['meta'] == {}


def test_tensors_come_where_they_are_wanted(tmp_path: Path) -> None:
    torch.save({'weight': torch.ones(2)}, tmp_path / 'model.pth')
    assert read_checkpoint(tmp_path / 'model.pth')['weight'].device.type == 'cpu'
    wanted = read_checkpoint(tmp_path / 'model.pth', map_location='meta')
    assert wanted['weight'].device.type == 'meta'
    path = tmp_path / 'model.safetensors'
    save_safetensors({'weight': torch.ones(2)}, str(path), {})
    for device in ('cpu', torch.device('cpu'), None):
        assert read_checkpoint(path, map_location=device)['state_dict']['weight'].is_cpu


def test_a_device_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    torch.save({'weight': torch.ones(2)}, tmp_path / 'model.pth')
    with pytest.raises(CheckpointError, match=r"cannot be put on 'cuda' here.*map_location='cpu'"):
        read_checkpoint(tmp_path / 'model.pth', map_location='cuda')


def test_tensors_that_share_memory_or_are_sparse_are_read(tmp_path: Path) -> None:
    """Heads that are shared stand in a file once, under several names."""
    shared = torch.rand(500, 500)
    state = {f'heads.{i}.weight': shared for i in range(6)}
    state |= {f'rows.{i}': shared[i] for i in range(500)}
    state['positions'] = torch.arange(7).expand(5, 7)
    state['sparse'] = torch.sparse_coo_tensor([[0], [1]], [2.0], (10**6, 10**6))
    torch.save({'state_dict': state}, tmp_path / 'model.pth')
    read = read_checkpoint(tmp_path / 'model.pth')['state_dict']
    assert {name: tensor.shape for name, tensor in read.items()} == {
        name: tensor.shape for name, tensor in state.items()
    }
    assert torch.equal(read['heads.5.weight'], shared)


def test_class_names_take_no_more_than_they_do_in_the_file() -> None:
    """As an array each would be as long as the longest."""
    classes = ('x' * 10**6, *['a'] * 10_000)
    meta = dict(dataset_meta=dict(classes=classes, palette=np.array([[1, 2, 3]])))
    found = dataset_meta(dict(meta=meta))
    assert found == dict(classes=list(classes), palette=[[1, 2, 3]])


@pytest.mark.parametrize('meta', [[1], 'x', None, dict(dataset_meta='x'), dict(dataset_meta=[1])])
def test_odd_metadata_hold_no_class_names(meta: object) -> None:
    assert dataset_meta(dict(meta=meta)) == {}
