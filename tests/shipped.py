"""The configs of the repository, each read once by a process of the tests."""

from __future__ import annotations

import copy
from functools import cache

from mmengine.config import Config

from mmrest.commands import load_config
from tests.conftest import ROOT

PATHS = sorted(ROOT.glob('configs/*.py'))
NAMES = [path.stem for path in PATHS]


def shipped(name: str) -> Config:
    """A config, to be changed at will."""
    return copy.deepcopy(_read(name))


@cache
def _read(name: str) -> Config:
    return load_config(str(ROOT / f'configs/{name}.py'))
