"""Parameters and multiply-adds of a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn, no_grad
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from mmrest.errors import InputError
from mmrest.ops import use_implementation


def count_parameters(model: nn.Module) -> float:
    """In millions."""
    return sum(p.numel() for p in model.parameters()) / 1e6


def count_macs(model: nn.Module, images: Tensor) -> float:
    """Multiply-adds of a forward pass, in billions.

    Counted by torch's ``FlopCounterMode``: convolutions, matrix products and attention. Norms,
    activations, softmax and other elementwise work are not counted. With model and images on the
    meta device nothing is computed.

    Args:
        model: Takes ``images``.
        images: (B, C, H, W).
    """
    counter = FlopCounterMode(display=False)
    # the counter hooks what a module is given, and trips over a view of a parameter without history
    constants = {name: p.detach() for name, p in model.named_parameters()}
    # fast implementations may do more than the papers' equations ask for
    with counter, no_grad(), use_implementation('reference'):
        functional_call(model, constants, (images,))
    return counter.get_total_flops() / 2e9


def count_image(model: nn.Module, channels: int, shape: tuple[int, int]) -> float:
    """Multiply-adds of one image, in billions, of a model on the meta device.

    Raises:
        InputError: The model asks for numbers on the way, or takes no such image.
    """
    try:
        return count_macs(model, torch.empty(1, channels, *shape, device='meta'))
    except InputError:
        raise
    except Exception as error:  # of mmcv's operators, and of whoever's model this is
        raise InputError(
            f'{type(model).__name__} cannot be followed without numbers, or takes no image of '
            f'{channels}x{shape[0]}x{shape[1]} ({type(error).__name__}: {error})'
        ) from error
