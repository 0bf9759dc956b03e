"""One of two processes that train a model together on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper

from mmrest.multires import MultiResolutionDDP
from tests.multires.models import TASKS, batch, build

SIZES = ((64, 96), (64, 96))


def model_config(task: str, accumulate: bool) -> dict[str, Any]:
    return dict(
        type='MultiResolution',
        model=TASKS[task](),
        scales=(1.0, 0.5),
        consistency=dict(target='cls'),
        accumulate=accumulate,
    )


def whole_batch(task: str) -> dict[str, Any]:
    return batch(task, SIZES)


def train(rank: int, task: str, accumulate: bool) -> dict[str, dict[str, torch.Tensor]]:
    """A step on one image of the batch."""
    model = build(model_config(task, accumulate))
    wrap = MultiResolutionDDP if accumulate else MMDistributedDataParallel
    wrapped = wrap(module=model, broadcast_buffers=False)
    optim_wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    data = {key: value[rank : rank + 1] for key, value in whole_batch(task).items()}
    logged = wrapped.train_step(data, optim_wrapper)
    return dict(state=model.state_dict(), logged={k: v.detach() for k, v in logged.items()})
