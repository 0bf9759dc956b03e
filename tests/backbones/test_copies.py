"""A copy of a model is the model, however it was made; so are an average and another thread."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from mmengine.model import ExponentialMovingAverage

from mmrest.backbones import PyramidBackbone
from tests.backbones.families import assert_close, build, families, randomize


def by_state_dict(model: PyramidBackbone) -> PyramidBackbone:
    other = build(type(model))
    other.load_state_dict(model.state_dict(), strict=True)
    return other


def by_file(model: PyramidBackbone) -> PyramidBackbone:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = build(type(model))
    other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    return other


def by_meta_device(model: PyramidBackbone) -> PyramidBackbone:
    with torch.device('meta'):
        other = build(type(model))
    other = other.to_empty(device='cpu')
    other.load_state_dict(model.state_dict(), strict=True)
    return other


COPIES: dict[str, Callable[[PyramidBackbone], PyramidBackbone]] = {
    'deepcopy': copy.deepcopy,
    'pickle': lambda model: pickle.loads(pickle.dumps(model)),
    'state dict': by_state_dict,
    'file': by_file,
    'meta device': by_meta_device,
}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 37, 50)


@pytest.mark.parametrize('way', COPIES)
@families
def test_a_copy_computes_the_same_and_is_its_own(
    family: type[PyramidBackbone], way: str, images: torch.Tensor
) -> None:
    model = randomize(build(family)).eval()
    with torch.no_grad():
        expected = model(images)
        other = COPIES[way](model).eval()
        for level, same in zip(other(images), expected, strict=True):
            assert torch.equal(level, same)
        for parameter in other.parameters():
            parameter.zero_()
        for level, same in zip(model(images), expected, strict=True):
            assert torch.equal(level, same)


@families
def test_averaged_weights_compute_as_their_hand_calculated_mean(
    family: type[PyramidBackbone], images: torch.Tensor
) -> None:
    model, images = randomize(build(family)).double().eval(), images.double()
    first = copy.deepcopy(model.state_dict())
    average = ExponentialMovingAverage(model, momentum=0.25, update_buffers=True)
    average.update_parameters(model)
    randomize(model)
    average.update_parameters(model)
    second = model.state_dict()
    mean = {
        name: 0.75 * value + 0.25 * second[name] if value.is_floating_point() else second[name]
        for name, value in first.items()
    }
    model.load_state_dict(mean)
    with torch.no_grad():
        assert_close(list(average(images)), list(model(images)), 1e-9)


@families
def test_threads_do_not_matter_beyond_rounding(
    family: type[PyramidBackbone], images: torch.Tensor
) -> None:
    model = randomize(build(family)).double().eval()
    maps = {}
    threads = torch.get_num_threads()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            with torch.no_grad():
                maps[number] = [level.clone() for level in model(images.double())]
    finally:
        torch.set_num_threads(threads)
    assert_close(maps[3], maps[1], 1e-12)
