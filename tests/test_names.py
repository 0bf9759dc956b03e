"""Names that mmrest registers: nobody else's, and each also found as ``mmrest.NAME``."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import mmengine.registry
import pytest
import torch
from mmcv.cnn import build_norm_layer
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, DefaultScope, Registry, build_from_cfg
from torch import nn

import mmrest
from mmrest.commands import load_config
from mmrest.config_nodes import iterate_dicts, task_model
from tests.conftest import ROOT
from tests.shipped import NAMES, shipped

# They derive from a class of mmdet, which `import mmrest` does not need: type='mmrest.engine....'
NOT_AT_THE_TOP = {
    'MaskTTAModel': 'mmrest.engine.mask_tta.MaskTTAModel',
    'OneMaskCascadeRoIHead': 'mmrest.engine.one_mask_head.OneMaskCascadeRoIHead',
}


def import_everything() -> None:
    """Import every module of mmrest, since each may register something."""
    for module in pkgutil.walk_packages(mmrest.__path__, 'mmrest.'):
        if not module.name.endswith('.__main__'):
            importlib.import_module(module.name)


def registrations(registry: Registry | None = None) -> Iterator[tuple[Registry, str, Any]]:
    """What mmrest registers, in any registry of mmengine or of what builds on it."""
    if registry is None:
        import_everything()
        for root in vars(mmengine.registry).values():
            if isinstance(root, Registry):
                yield from registrations(root)
        return
    for name, registered in registry.module_dict.items():
        if getattr(registered, '__module__', '').split('.')[0] == 'mmrest':
            yield registry, name, registered
    for child in registry.children.values():
        yield from registrations(child)


def names_of_others() -> dict[str, str]:
    """Names in ``registered_names.txt``, with the packages that register them."""
    text = (ROOT / 'tests/registered_names.txt').read_text(encoding='utf-8')
    lines = [line for line in text.splitlines() if not line.startswith('#')]
    return dict(line.split(' ', 1) for line in lines)


def clashes() -> list[str]:
    others = names_of_others()
    return [
        f'{name}, in {registry.name}, is also registered by {others[name]}'
        for registry, name, _ in registrations()
        if name in others
    ]


def spelling(name: str) -> str:
    """How a config names what is registered as ``name``, in any scope and with no import."""
    return NOT_AT_THE_TOP.get(name, f'mmrest.{name}')


def test_no_name_is_anybody_elses() -> None:
    assert clashes() == []


@pytest.mark.parametrize(('name', 'owner'), [('LN2d', 'mmpretrain'), ('FPN', 'mmdet mmseg')])
def test_a_clash_is_found(name: str, owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(nn.Module):
        __module__ = 'mmrest.backbones.mine'

    monkeypatch.setitem(MODELS.module_dict, name, Mine)
    assert clashes() == [f'{name}, in model, is also registered by {owner}']


def test_the_list_is_whole() -> None:
    """A name of every package and of every way to register is in it."""
    others = names_of_others()
    assert len(others) > 1000
    assert others['ReLU'] == 'mmcv'  # in a loop
    assert others['IN2d'] == 'mmcv'  # no decorator
    assert others['SyncBuffersHook'] == 'mmengine'
    assert others['LVISV05Dataset'] == 'mmdet'
    assert others['ToPIL'] == 'mmpretrain'  # one of several names
    assert others['AutoTokenizer'] == 'mmpretrain'  # Hugging Face's
    assert others['PackSegInputs'] == 'mmseg'


def test_everything_is_registered_in_mmengines_registries() -> None:
    """Those of mmdet and mmseg find what is in their parents; mmdet's own mmseg would not find."""
    found = list(registrations())
    assert {'ResT', 'LayerNorm2d', 'MultiResolution', 'ValidSizesHook', 'MaskTTAModel'} <= {
        name for _, name, _ in found
    }
    assert {registry.scope for registry, _, _ in found} == {'mmengine'}


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg'])
def test_every_name_is_found_with_mmrest_before_it(scope: str) -> None:
    for registry, name, registered in registrations():
        with registry.switch_scope_and_registry(scope) as current:
            assert current.scope == scope
            assert current.get(spelling(name)) is registered
            assert current.get(name) is registered


@pytest.mark.parametrize('scope', ['mmdet', pytest.param('mmseg', marks=pytest.mark.slow)])
def test_nothing_needs_to_be_imported_first(scope: str) -> None:
    code = """
        import sys
        from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope
        assert 'mmrest' not in sys.modules
        with DefaultScope.overwrite_default_scope('{scope}'):
            print(type(MODELS.build(dict(type='mmrest.ResT', arch='lite'))).__name__)
            print(HOOKS.get('mmrest.ValidSizesHook').__name__)
            print(OPTIM_WRAPPER_CONSTRUCTORS.get(
                'mmrest.LayerDecayOptimWrapperConstructor').__name__)
            print(MODELS.get('mmrest.MultiResolution').__name__, MODELS.get('mmrest.Nothing'))
        print('torch._dynamo' in sys.modules)  # takes longer than all of mmrest
    """
    result = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code).replace('{scope}', scope)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert result.stdout.split() == [
        *('ResT', 'ValidSizesHook', 'LayerDecayOptimWrapperConstructor'),
        *('make_multi_resolution', 'None', 'False'),
    ], result.stderr


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_mmcv_builds_the_norm(scope: str) -> None:
    with DefaultScope.overwrite_default_scope(scope):
        name, norm = build_norm_layer(dict(type='mmrest.LayerNorm2d', eps=1e-6), 8)
        conv = MODELS.build(
            dict(
                type='mmrest.SimpleFPN',
                in_channels=[4],
                out_channels=8,
                num_outs=1,
                norm_cfg=dict(type='mmrest.LayerNorm2d', eps=1e-6),
            )
        )
    assert name == 'ln'
    assert norm.eps == 1e-6
    image = torch.rand(2, 8, 3, 5)
    expected = nn.functional.layer_norm(image.movedim(1, -1), (8,), eps=1e-6).movedim(-1, 1)
    torch.testing.assert_close(norm(image), expected)
    # as in the checkpoints of before
    assert [key for key in conv.state_dict() if 'levels.0.1' in key] == [
        *('levels.0.1.conv.weight', 'levels.0.1.ln.weight', 'levels.0.1.ln.bias')
    ]


def test_a_scope_beside_the_type() -> None:
    cfg = dict(type='mmrest.ResT', arch='lite', _scope_='mmseg')
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert type(MODELS.build(cfg)) is mmrest.ResT
        hook = build_from_cfg(dict(type='mmrest.ValidSizesHook', _scope_='mmseg'), HOOKS)
    assert type(hook) is mmrest.ValidSizesHook


@pytest.mark.parametrize('constructor', ['', 'mmrest.'])
def test_optim_wrapper_constructor(constructor: str) -> None:
    model = nn.Module()
    model.backbone = mmrest.ResT('lite')
    cfg = dict(
        constructor=f'{constructor}LayerDecayOptimWrapperConstructor',
        optimizer=dict(type='SGD', lr=1.0),
        paramwise_cfg=dict(layer_decay_rate=0.5),
    )
    with DefaultScope.overwrite_default_scope('mmdet'):
        rates = build_optim_wrapper(model, cfg).get_lr()['lr']
    assert min(rates) < max(rates)


@pytest.mark.parametrize('name', NAMES)
def test_shipped_configs_write_mmrest_before_our_names(name: str) -> None:
    ours = {name for _, name, _ in registrations()}
    cfg = shipped(name)
    written = set()
    for node in iterate_dicts(cfg._cfg_dict.to_dict()):
        written |= {value for value in map(node.get, ('type', 'constructor')) if value}
    assert not written & ours
    dotted = {value for value in written if value.startswith('mmrest.')}
    assert dotted
    assert dotted <= {spelling(name) for name in ours}


def test_a_config_keeps_its_names() -> None:
    """Dumped, read again and pickled; changed on the command line, to either spelling."""
    path = str(ROOT / 'configs/mask_rcnn_resformer_small_mr_coco.py')
    cfg = load_config(path)
    for again in (
        Config.fromstring(cfg.pretty_text, '.py'),
        pickle.loads(pickle.dumps(cfg)),
    ):
        assert again.model == cfg.model
        assert task_model(again).backbone.type == 'mmrest.ResFormer'
        assert task_model(again).neck.norm_cfg.type == 'mmrest.LayerNorm2d'
    for written in ('ResT', 'mmrest.ResT'):
        changed = load_config(path, {'model.model.backbone.type': written})
        assert task_model(changed).backbone.type == written


def test_both_spellings_are_several_resolutions() -> None:
    inner = dict(type='RetinaNet')
    for written in ('MultiResolution', 'mmrest.MultiResolution'):
        cfg = Config(dict(model=dict(type=written, model=inner)))
        assert task_model(cfg).type == 'RetinaNet'
    assert task_model(SimpleNamespace(model=inner)) is inner
