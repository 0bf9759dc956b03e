"""Weights and images that the recorded outputs were computed with, from names and seeds alone."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent


def read(name: str) -> dict[str, Any]:
    """What was recorded of a model, for example ``rest_small``."""
    return json.loads((FOLDER / f'{name}.json').read_text())


def weights(shapes: dict[str, list[int]], seed: str) -> dict[str, Tensor]:
    """A float64 checkpoint with the authors' key names."""
    return {key: torch.as_tensor(_weight(key, shape, seed)) for key, shape in shapes.items()}


def images(shape: list[int], seed: str) -> Tensor:
    """A float64 batch (B, 3, H, W)."""
    return torch.from_numpy(_normal(f'{seed}:image:{"x".join(map(str, shape))}', shape))


def distance(output: Tensor, recorded: dict[str, Any]) -> float:
    """Largest error relative to the output's largest absolute value.

    Compared are the sampled values and that largest value, of which every element has a part.
    """
    assert list(output.shape) == recorded['shape']
    output, largest = output.double(), recorded['absmax']
    sampled = output.flatten()[recorded['index']]
    error = (sampled - torch.tensor(recorded['value'], dtype=torch.float64)).abs().max()
    return max(error.item(), abs(output.abs().max().item() - largest)) / largest


def _normal(tag: str, shape: list[int]) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(tag.encode())).standard_normal(shape)


def _weight(key: str, shape: list[int], seed: str) -> np.ndarray:
    if key.endswith('num_batches_tracked'):
        return np.zeros(shape, np.int64)
    sample = _normal(f'{seed}:{key}', shape)
    if key.endswith('running_var'):
        return 1 + 0.1 * np.abs(sample)
    if key.endswith(('running_mean', 'bias', 'cls_token')):
        return 0.1 * sample
    if len(shape) == 1:
        return 1 + 0.1 * sample
    return sample / math.sqrt(math.prod(shape[1:]))
