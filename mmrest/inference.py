"""Rewriting a model for inference, once and explicitly."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from mmcv.cnn import ConvModule
from torch import nn

from mmrest.backbones.fused import FoldedConv2d, Fused, Fusible, can_fold
from mmrest.backbones.layers import are_untouched
from mmrest.errors import InputError


def fuse(model: nn.Module, inplace: bool = False) -> nn.Module:
    """The same model for inference: faster, in less memory, and not to be trained.

    Convolutions take over the BatchNorms behind them, in the backbone and in mmcv's ``ConvModule``
    of necks and heads. On a processor ResT's and ResTv2's stems are computed strip by strip and
    their plain attention in chunks of queries, so that no large map is in memory as a whole. What
    somebody has replaced, adapted or hooked stays as it is.

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
    """(owner, attribute, what takes its place) of all that can be fused, the outermost first."""
    convs = Counter(id(m.conv) for m in model.modules() if isinstance(m, ConvModule))
    waiting = [model]
    while waiting:
        owner = waiting.pop()
        if isinstance(owner, ConvModule) and _folds(owner) and convs[id(owner.conv)] == 1:
            norm = owner.norm
            yield owner, 'conv', FoldedConv2d(owner.conv, norm)
            yield owner, owner.norm_name, nn.Identity()
            continue
        for name, child in list(owner.named_children()):
            replacement = child.fuse() if _may_be_replaced(child) else child
            if replacement is not child:
                yield owner, name, replacement
            if not isinstance(replacement, Fused):
                waiting.append(replacement)


def _may_be_replaced(module: nn.Module) -> bool:
    """True if a module has another form, and computes and shows no more than its class does."""
    if not isinstance(module, Fusible) or not are_untouched(module):
        return False
    written_for = next(kind for kind in type(module).__mro__ if 'fuse' in vars(kind))
    return type(module).forward is written_for.forward


def _folds(module: ConvModule) -> bool:
    """True if a ``ConvModule`` is a convolution with a BatchNorm right behind it."""
    if type(module) is not ConvModule or not module.with_norm or module.with_spectral_norm:
        return False
    if getattr(module, 'efficient_conv_bn_eval_forward', None) is not None:
        return False  # it folds the norm itself, at every call
    order = module.order
    plain = are_untouched(module) and order.index('norm') == order.index('conv') + 1
    return plain and can_fold(module.conv, module.norm)
