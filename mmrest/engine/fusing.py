"""Testing with a model that is fused for inference."""

from __future__ import annotations

from contextlib import ExitStack

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmrest.inference import fused
from mmrest.wrappers import unwrap_model


@HOOKS.register_module()
class FuseHook(Hook):
    """``custom_hooks=[dict(type='mmrest.FuseHook')]``: test with the model fused.

    Validation between epochs is as it was. After the test the model is what it was before.
    """

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self._context: ExitStack | None = None

    def before_test(self, runner: Runner) -> None:
        """Called by the runner once the checkpoint is loaded."""
        model = unwrap_model(runner.model).eval()
        self._context = ExitStack()
        self._context.enter_context(fused(model))

    def after_test(self, runner: Runner) -> None:
        """Called by the runner after the test."""
        if self._context is not None:
            self._context.close()
            self._context = None
