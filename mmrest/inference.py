"""Rewriting a model for inference, once and explicitly."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from mmcv.cnn import ConvModule
from torch import nn

from mmrest.backbones.fused import FoldedConv2d, FoldsNorms, can_fold
from mmrest.backbones.layers import are_untouched, can_fuse
from mmrest.errors import InputError


def fuse(model: nn.Module, inplace: bool = False) -> nn.Module:
    """The same model for inference: faster, in less memory, and not to be trained.

    Convolutions take over the BatchNorms behind them, in the backbone and in mmcv's ``ConvModule``
    of necks and heads, and in the backbone the ReLUs behind those. What somebody has replaced,
    adapted or hooked stays as it is.

    The state of a fused model has other names (they contain ``fused``) and is refused where an
    unfused model loads it, and the other way round.

    Args:
        model: A backbone, detector or segmentor in evaluation.
        inplace: Change the model itself rather than a copy.

    Returns:
        The fused model.

    Raises:
        InputError: The model is in training, whose BatchNorms have other statistics.
    """
    if model.training:
        raise InputError(
            'fuse: the model is in training; call model.eval() first, and fuse once it is trained'
        )
    model = model if inplace else copy.deepcopy(model)
    for owner, name, replacement in _replacements(model):
        setattr(owner, name, replacement)
    return model


@contextmanager
def fused(model: nn.Module) -> Iterator[None]:
    """Within this context the model is fused; afterwards it is unchanged.

    Args:
        model: As for :func:`fuse`; not itself one of the modules that are replaced.
    """
    with ExitStack() as undo:
        for owner, name, replacement in _replacements(model):
            undo.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, replacement)
        yield


def _replacements(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """(owner, attribute, what takes its place) of all that can be folded."""
    owners = list(model.modules())
    uses = Counter(id(child) for owner in owners for child in owner.children())
    for owner in owners:
        for conv_name, *behind in _neighbours(owner):
            conv, norm, *act = map(owner.get_submodule, (conv_name, *behind))
            # a convolution that two norms share cannot be folded into both
            if not can_fold(conv, norm) or uses[id(conv)] != 1:
                continue
            relus = [module for module in act if type(module) is nn.ReLU and can_fuse(module)]
            yield owner, conv_name, FoldedConv2d(conv, norm, relu=bool(relus))
            for name in behind[: 1 + len(relus)]:
                yield owner, name, nn.Identity()


def _neighbours(owner: nn.Module) -> tuple[tuple[str, ...], ...]:
    """As ``FoldsNorms.folds``: names of what a module's ``forward`` calls one behind the other."""
    if isinstance(owner, ConvModule):
        return (('conv', owner.norm_name),) if _norm_follows(owner) else ()
    if not isinstance(owner, FoldsNorms) or 'forward' in vars(owner):
        return ()
    written_for = next(kind for kind in type(owner).__mro__ if 'folds' in vars(kind))
    return owner.folds if type(owner).forward is written_for.forward else ()


def _norm_follows(module: ConvModule) -> bool:
    """True if a ``ConvModule`` is a convolution with a norm right behind it."""
    if type(module) is not ConvModule or not module.with_norm or module.with_spectral_norm:
        return False
    if getattr(module, 'efficient_conv_bn_eval_forward', None) is not None:
        return False  # it folds the norm itself, at every call
    order = module.order
    return are_untouched(module) and order.index('norm') == order.index('conv') + 1
