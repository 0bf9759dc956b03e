from __future__ import annotations

import pytest
from mmengine.registry import MODELS

from mmrest.commands.config_errors import explain_config_errors
from mmrest.errors import InputError


class Broken:
    def __init__(self, **kwargs: object) -> None:
        raise TypeError('a bug of its own')


MODELS.register_module('BrokenOfTheTest', module=Broken)
KINDS = ['ResT', 'ResTV2', 'ResFormer']


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(
    ('argument', 'meant'),
    [('archh', 'arch'), ('out_indexes', 'out_indices'), ('frozen_stage', 'frozen_stages')],
)
def test_a_misspelt_argument_names_the_nearest(kind: str, argument: str, meant: str) -> None:
    with (
        pytest.raises(InputError, match=rf"{kind} an argument '{argument}'.*did you mean {meant}"),
        explain_config_errors(),
    ):
        MODELS.build({'type': kind, argument: 1})


@pytest.mark.parametrize(('kind', 'meant'), [('ResTT', 'ResT'), ('ResFormr', 'ResFormer')])
def test_a_misspelt_type_names_the_nearest(kind: str, meant: str) -> None:
    with (
        pytest.raises(InputError, match=f'{kind} is no model .*did you mean .*{meant}'),
        explain_config_errors(),
    ):
        MODELS.build(dict(type=kind))


def test_a_missing_argument_is_named() -> None:
    with (
        pytest.raises(InputError, match=r"gives SimpleFPN no 'in_channels'"),
        explain_config_errors(),
    ):
        MODELS.build(dict(type='SimpleFPN'))


def test_errors_of_a_class_itself_keep_their_traceback() -> None:
    with pytest.raises(TypeError, match='a bug of its own'), explain_config_errors():
        MODELS.build(dict(type='BrokenOfTheTest'))
    with pytest.raises(KeyError), explain_config_errors():
        {}['a']
