from __future__ import annotations

from dataclasses import dataclass

import pytest

from mmrest.backbones.arch import Arch, HierarchicalArch
from mmrest.errors import InputError


@dataclass(frozen=True)
class ToyArch(HierarchicalArch):
    heads: tuple[int, ...] = (1, 2, 4, 8)
    ratio: float = 4
    name: str = 'a'
    flag: bool = False


def test_defaults_are_cut_to_the_stages_and_lists_become_tuples() -> None:
    arch = ToyArch([8, 16], [1, 1])
    assert arch == ToyArch((8, 16), (1, 1), (1, 2), 4, 'a', False)
    with pytest.raises(InputError, match=r'Toy: .*numbers of stages: .*heads=\(1, 2, 4, 8\)'):
        ToyArch((8,) * 5, (1,) * 5)
    with pytest.raises(InputError, match=r'numbers of stages: .*heads=\(1,\)'):
        ToyArch((8, 16), (1, 1), heads=(1,))


@pytest.mark.parametrize(
    'field',
    [
        dict(heads=(1, 0)),
        dict(heads=(1, 2.0)),
        dict(heads=2),
        dict(ratio='4'),
        dict(ratio=0),
        dict(ratio=True),
        dict(name=1),
        dict(flag=1),
        dict(depths=()),
        dict(embed_dims=None),
    ],
    ids=str,
)
def test_a_field_of_another_type_is_named(field: dict) -> None:
    with pytest.raises(InputError, match=f'Toy: arch field {next(iter(field))}='):
        ToyArch(**{**dict(embed_dims=(8, 16), depths=(1, 1)), **field})


def test_multiples_and_hidden_channels() -> None:
    ToyArch((8, 16), (1, 1)).require_multiples(of='heads')
    with pytest.raises(InputError, match='embed_dims 9 is not a multiple of heads 2'):
        ToyArch((8, 9), (1, 1)).require_multiples(of='heads')


def test_it_resolves_names_dicts_and_itself() -> None:
    variants = dict(small=ToyArch((8,), (1,)))
    assert ToyArch.resolve('small', variants) is variants['small']
    assert ToyArch.resolve(dict(embed_dims=[8], depths=[1]), variants) == variants['small']
    assert ToyArch.resolve(variants['small'], {}) is variants['small']
    # a published one with other fields
    changed = ToyArch.resolve(dict(variant='small', ratio=2, depths=[3]), variants)
    assert changed == ToyArch((8,), (3,), ratio=2)
    assert ToyArch.resolve(dict(variant='small'), variants) == variants['small']
    for arch, message in (
        ('huge', "unknown arch 'huge'; published variants are small"),
        (dict(depths=(1,)), r"missing: \['embed_dims'\], unknown: none"),
        (dict(embed_dims=(8,), depths=(1,), widths=1), r"unknown: \['widths'\]"),
        (dict(variant='huge', ratio=2), "unknown arch 'huge'; published variants are small"),
        (dict(variant='small', widths=1), r"unknown: \['widths'\]"),
        (dict(variant='small', ratio=0), 'arch field ratio=0 must have a number above 0'),
        (dict(variant='small', flag=1), 'arch field flag=1 must have True or False'),
        (Arch(), 'must be a name, a dict or a ToyArch'),
        (None, 'must be a name, a dict or a ToyArch'),
    ):
        with pytest.raises(InputError, match=message):
            ToyArch.resolve(arch, variants)
