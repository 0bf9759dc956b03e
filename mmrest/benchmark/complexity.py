"""Parameters and multiply-adds of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn, no_grad
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from mmrest.benchmark.models import image_meta
from mmrest.errors import InputError
from mmrest.ops import use_implementation


def count_parameters(model: nn.Module) -> float:
    """In millions."""
    return sum(p.numel() for p in model.parameters()) / 1e6


def count_macs(model: nn.Module, images: Tensor, **options: Any) -> float:
    """Multiply-adds of a forward pass, in billions.

    Counted by torch's ``FlopCounterMode``: convolutions, matrix products and attention. Norms,
    activations, softmax and other elementwise work are not counted. With model and images on the
    meta device nothing is computed.

    Args:
        model: Takes ``images``.
        images: (B, C, H, W).
        options: What the model takes besides.
    """
    counter = FlopCounterMode(display=False)
    # the counter hooks what a module is given, and trips over a view of a parameter without history
    constants = {name: p.detach() for name, p in model.named_parameters()}
    # fast implementations may do more than the papers' equations ask for
    with counter, no_grad(), use_implementation('reference'):
        functional_call(model, constants, (images,), options)
    return counter.get_total_flops() / 2e9


def count_image(model: nn.Module, channels: int, shape: tuple[int, int]) -> float:
    """Multiply-adds of one image, in billions, of a model on the meta device.

    Raises:
        InputError: The model asks for numbers on the way, or takes no such image.
    """
    with _explain(model, 'cannot be followed without numbers', channels, shape):
        return count_macs(model, torch.empty(1, channels, *shape, device='meta'))


def count_whole(model: nn.Module, channels: int, shape: tuple[int, int]) -> float:
    """Multiply-adds of a detector or segmentor for one image, in billions.

    Of backbone, neck and the heads that predict (``mode='tensor'``). It is computed with numbers,
    since a detector in two stages chooses among its proposals: its box heads are counted for as
    many as ``test_cfg`` keeps (1,000), its mask head for 100.

    Args:
        model: On the processor, in eval mode.
        channels: Of the image.
        shape: (height, width) of the image.

    Raises:
        InputError: It takes no such image.
    """
    sample = BaseDataElement(metainfo=image_meta(shape))
    images = torch.randn(1, channels, *shape, generator=torch.Generator().manual_seed(0))
    with _explain(model, 'cannot be counted', channels, shape):
        return count_macs(model, images, data_samples=[sample], mode='tensor')


@contextmanager
def _explain(
    model: nn.Module, trouble: str, channels: int, shape: tuple[int, int]
) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of mmcv's operators, and of whoever's model this is
        raise InputError(
            f'{type(model).__name__} {trouble}, or takes no image of '
            f'{channels}x{shape[0]}x{shape[1]} ({type(error).__name__}: {error})'
        ) from error
