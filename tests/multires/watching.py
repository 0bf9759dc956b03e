"""Hooks that see, or spoil, a test at a resolution."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class WriteSizes(Hook):
    def __init__(self, file: str) -> None:
        self.file = file

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any, outputs: Any
    ) -> None:
        with open(self.file, 'a') as file:
            for image in data_batch['inputs']:
                print(*image.shape[-2:], file=file)


@HOOKS.register_module()
class RaiseAt(Hook):
    def __init__(self, short_side: int, message: str) -> None:
        self.short_side, self.message = short_side, message

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any, outputs: Any
    ) -> None:
        if min(data_batch['inputs'][0].shape[-2:]) == self.short_side:
            self.spoil()

    def spoil(self) -> None:
        raise RuntimeError(self.message)


@HOOKS.register_module()
class DieAt(RaiseAt):
    def __init__(self, short_side: int) -> None:
        super().__init__(short_side, '')

    def spoil(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module()
class InterruptParent(Hook):
    def __init__(self, file: str) -> None:
        self.file = file

    def before_test(self, runner: Runner) -> None:
        with open(self.file, 'w') as file:
            file.write(str(os.getpid()))
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)
