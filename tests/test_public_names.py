"""What users write into configs and keep in files does not change unnoticed.

After a change on purpose: ``python -m tests.test_public_names`` writes the files anew, and
CHANGELOG.md says what is different.
"""

from __future__ import annotations

import inspect
import json
import re

import pytest
import torch

import mmrest
from mmrest.__main__ import COMMANDS
from mmrest.backbones import BACKBONES
from tests.backbones.families import ROWS
from tests.conftest import ROOT

FILE = ROOT / 'tests/public_names.json'


def arguments(name: str) -> list[str]:
    """Arguments of a class or function, in their order."""
    thing = getattr(mmrest, name)
    return list(inspect.signature(thing).parameters)


def state_keys(family: str) -> list[str]:
    """Keys of a small model's state, with a star for the number of a stage or block."""
    with torch.device('meta'):
        keys = BACKBONES[family](ROWS[BACKBONES[family]].arch).state_dict()
    return sorted({re.sub(r'\b\d+\b', '*', key) for key in keys})


def current() -> dict:
    names = sorted(mmrest.api.__all__)
    return dict(
        names={name: arguments(name) for name in names},
        variants={name: sorted(family.variants) for name, family in BACKBONES.items()},
        state={name: state_keys(name) for name in BACKBONES},
        commands=sorted(COMMANDS),
        configs=mmrest.config_names(),
    )


@pytest.mark.parametrize('kind', ['names', 'variants', 'state'])
def test_what_is_public_stays(kind: str) -> None:
    kept = json.loads(FILE.read_text())[kind]
    now = current()[kind]
    for name, values in kept.items():
        assert now.get(name) == values, f'{kind}: {name}'
    assert now.keys() == kept.keys(), f'new {kind}: python -m tests.test_public_names'


@pytest.mark.parametrize('kind', ['commands', 'configs'])
def test_commands_and_configs_stay(kind: str) -> None:
    assert json.loads(FILE.read_text())[kind] == current()[kind], (
        f'if these {kind} are wanted: python -m tests.test_public_names'
    )


if __name__ == '__main__':
    FILE.write_text(json.dumps(current(), indent=1) + '\n')
