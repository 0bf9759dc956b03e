"""torch.compile for the backbone of a detector or segmentor."""

from __future__ import annotations

import shutil

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from mmrest.backbones.layers import Block, DropPath
from mmrest.backbones.pyramid import PyramidBackbone
from mmrest.engine.valid_sizes import ValidSizesHook
from mmrest.errors import InputError
from mmrest.wrappers import unwrap_model

# Of a block's code: channels, batches of one or more images, small and large maps, training or not.
_MOST_GRAPHS = 64


def compile_backbone(model: nn.Module) -> None:
    """Compile the backbone for images of any size.

    Of a backbone of mmrest, each block becomes one graph. Blocks that differ in nothing but their
    weights share it, so that compiling takes as long for a deep model as for a shallow one, and in
    a block sizes are simple expressions (in one graph for the whole backbone they are not, and the
    compiler takes far longer over it). Of another backbone, the whole is compiled, to what torch
    makes of it. Names of parameters, and so checkpoints, stay as they are.

    Args:
        model: A backbone, or a detector or segmentor, also in its wrappers; changed in place.

    Raises:
        InputError: torch cannot compile here.
    """
    require_compiler()
    model = unwrap_model(model)
    backbone = getattr(model, 'backbone', model)
    if not isinstance(backbone, PyramidBackbone):
        backbone.compile(dynamic=True)
        return
    dynamo = torch._dynamo.config
    dynamo.cache_size_limit = max(dynamo.cache_size_limit, _MOST_GRAPHS)
    hold_rates(backbone)
    for block in backbone.modules():
        if isinstance(block, Block):
            block.compile(dynamic=True, fullgraph=True)


def hold_rates(backbone: nn.Module) -> None:
    """Give drop paths their rates as tensors, so that blocks that differ in theirs share a graph.

    Later changes of ``rate`` count no more.
    """
    for module in backbone.modules():
        if isinstance(module, DropPath) and 0 < module.rate < 1:
            module.compiled_keep = torch.tensor(1.0 - module.rate)


def require_compiler() -> None:
    """Check for what torch.compile needs, before anything long begins.

    Raises:
        InputError: It is missing; the message says what to install.
    """
    if not torch.cuda.is_available() and not (shutil.which('g++') or shutil.which('clang++')):
        raise InputError(
            '--compile: torch.compile needs a C++ compiler on a processor and finds none; install '
            'g++, or leave --compile out'
        )


def use_compiled_backbone(cfg: Config) -> None:
    """Make a config's runner compile the backbone."""
    require_compiler()
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type='CompileBackboneHook')]


@HOOKS.register_module()
class CompileBackboneHook(Hook):
    """``custom_hooks=[dict(type='mmrest.CompileBackboneHook')]``: :func:`compile_backbone`."""

    def before_run(self, runner: Runner) -> None:
        """Called by the runner before training, validation or testing.

        Raises:
            InputError: The run tells the backbone valid sizes, too, of which a graph holds for one.
        """
        if any(isinstance(hook, ValidSizesHook) for hook in runner.hooks):
            raise InputError(
                'a compiled backbone (--compile, CompileBackboneHook) takes no valid sizes; leave '
                'it or ValidSizesHook out'
            )
        compile_backbone(runner.model)
