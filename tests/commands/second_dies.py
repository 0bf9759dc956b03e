"""A hook for configs: the second of several processes is killed in a training."""

from __future__ import annotations

import os
import signal
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class SecondDies(Hook):
    def after_train_iter(self, runner: Runner, batch_idx: int, *_: Any, **__: Any) -> None:
        if runner.iter == 2 and get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
