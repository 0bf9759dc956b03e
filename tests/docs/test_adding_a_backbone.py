"""The family that docs/adding-a-backbone.md adds keeps the whole contract."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from mmengine.registry import MODELS

import mmrest
from mmrest.backbones import BACKBONES, PyramidBackbone
from tests import test_inference
from tests.backbones import families, test_layers, test_pyramid, test_replaced_modules
from tests.conftest import ROOT

BLOCKS = re.findall(
    r'^```python\n(.*?)^```', (ROOT / 'docs/adding-a-backbone.md').read_text(), re.S | re.M
)


def property_tests(*modules: ModuleType) -> dict[str, Callable[[type], None]]:
    """The tests of every run that ask for nothing but a family."""
    return {
        name: function
        for module in modules
        for name, function in vars(module).items()
        if name.startswith('test_') and list(inspect.signature(function).parameters) == ['family']
        if 'slow' not in {mark.name for mark in getattr(function, 'pytestmark', [])}
    }


PROPERTIES = property_tests(test_pyramid, test_layers, test_replaced_modules, test_inference)


@pytest.fixture(scope='module')
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[PyramidBackbone]]:
    """The page's class, in the tables of families and tests as the page says."""
    file = tmp_path_factory.mktemp('backbones') / 'pool_mixer.py'
    file.write_text(BLOCKS[0])
    with pytest.MonkeyPatch.context() as patch:
        # whoever has followed the page has one already
        for table in (BACKBONES, MODELS.module_dict):
            patch.delitem(table, 'PoolMixer', raising=False)
        spec = importlib.util.spec_from_file_location('pool_mixer', file)
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, 'pool_mixer', module)
        spec.loader.exec_module(module)
        added = module.PoolMixer
        patch.setattr(mmrest, 'PoolMixer', added, raising=False)
        patch.setitem(families.ROWS, added, eval(BLOCKS[1], vars(families)))
        try:
            yield added
        finally:
            BACKBONES.pop('PoolMixer')
            MODELS.module_dict.pop('PoolMixer')


@pytest.mark.parametrize('name', PROPERTIES)
def test_it_keeps_the_contract(family: type[PyramidBackbone], name: str) -> None:
    PROPERTIES[name](family)


@pytest.mark.parametrize('size', test_pyramid.SIZES, ids=str)
def test_its_maps_have_the_promised_sizes(
    family: type[PyramidBackbone], size: tuple[int, int]
) -> None:
    test_pyramid.test_maps_have_the_promised_sizes(family, size)
    if min(size) > 1:
        test_pyramid.test_training_step_at_odd_sizes(family, size)


@pytest.mark.parametrize('change', test_replaced_modules.CHANGES)
def test_what_is_changed_in_it_counts(family: type[PyramidBackbone], change: str) -> None:
    if change not in ('adapters', 'no MLPs'):  # of which every module must learn
        test_replaced_modules.test_it_counts_in_training_and_inference(family, change)


def test_its_wrong_fields_are_named(family: type[PyramidBackbone]) -> None:
    for fields in families.ROWS[family].wrong_fields:
        test_pyramid.test_a_wrong_field_of_arch_is_named(family, fields)


def test_a_published_file_fits(family: type[PyramidBackbone], tmp_path: Path) -> None:
    """In the key names that the page's key map translates."""
    import torch

    from mmrest.checkpoints import CheckpointError, load_pretrained

    model = family('small')
    state = {}
    for key, value in model.state_dict().items():
        key = re.sub(r'^stages\.0\.embed\.', 'patch_embed.', key)
        key = re.sub(r'^stages\.(\d)\.embed\.', r'embed\1.', key)
        key = re.sub(r'^stages\.(\d)\.blocks', lambda m: f'network{int(m[1]) + 1}', key)
        if key.startswith('branch_norms.3.'):
            key = key.replace('branch_norms.3.', 'norm.')
        if not key.startswith('branch_norms'):
            state[key] = torch.rand_like(value) if value.is_floating_point() else value
    state['head.weight'] = torch.rand(1000, 512)
    file = str(tmp_path / 'authors.pth')
    torch.save({'model': state}, file)
    load_pretrained(model, file)
    assert torch.equal(model.branch_norms['3'].weight, state['norm.weight'])
    assert torch.equal(model.stages[1].embed.proj.weight, state['embed1.proj.weight'])
    with pytest.raises(CheckpointError, match='seems to be PoolMixer small'):
        load_pretrained(family(families.ROWS[family].arch), file)
