"""The configs of the repository, each read once by a process of the tests."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from mmengine.config import Config

from mmrest.commands import load_config
from mmrest.config_nodes import iterate_dicts
from tests.conftest import ROOT

PATHS = sorted(ROOT.glob('configs/*.py'))
NAMES = [path.stem for path in PATHS]


def shipped(name: str) -> Config:
    """A config, to be changed at will."""
    return copy.deepcopy(_read(name))


def sample_few(model: dict, boxes: int, proposals: int) -> None:
    """Let a detector of two stages look at a few boxes of an image instead of a thousand."""
    for node in iterate_dicts(model):
        if node.get('type') == 'RandomSampler':
            node['num'] = boxes
        if 'max_per_img' in node:
            node['max_per_img'] = proposals


@contextmanager
def on_meta() -> Iterator[None]:
    """Models that are built have neither memory nor numbers; drawing them would take as long."""
    drawing = ('normal_', 'uniform_', 'erfinv_', 'clamp_')
    with pytest.MonkeyPatch.context() as patched, torch.device('meta'):
        for name in drawing:
            patched.setattr(torch.Tensor, name, lambda tensor, *_, **__: tensor)
        yield


@cache
def _read(name: str) -> Config:
    return load_config(str(ROOT / f'configs/{name}.py'))
