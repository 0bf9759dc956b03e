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

    Hooks such as mmengine's ``EMAHook`` exchange the model's weights around a test, by their order
    in the unfused model. So it is fused once they have done so, in the first iteration, and is
    itself again before they take theirs back.
    """

    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._undo: ExitStack | None = None

    def before_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | tuple | list | None = None
    ) -> None:
        """Called by the runner before each batch of a test."""
        if self._undo is None:
            self._undo = ExitStack()
            self._undo.enter_context(fused(unwrap_model(runner.model)))

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Called by the runner after the last batch."""
        if self._undo is not None:
            self._undo.close()
            self._undo = None
