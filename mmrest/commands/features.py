"""Pictures of what a backbone makes of an image: levels, position encodings, attention."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.visualization import Visualizer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmrest.backbones.layers import PixelAttention
from mmrest.backbones.pooling_attention import RelativePositions
from mmrest.backbones.resformer import GlobalPositionEmbedding
from mmrest.errors import InputError
from mmrest.ops import use_implementation

Grid = tuple[int, int]
# Of queries and keys; keys are reduced by up to 16.
_STRIDES = 4, 8, 16, 32, 64, 128


class FeatureRecorder(ExitStack):
    """Keeps what a backbone computes while it is open.

    Recorded are the levels; position encodings: ResT's gates (:class:`PixelAttention`), ResFormer's
    embedding of the grid, MViTv2's relative positions of one query; and the attention of one query
    to the whole map, in the last block of each stage. Attention in windows has no map of the image,
    and attention to pools of several sizes (P2T) none that could be drawn.

    Args:
        backbone: Of a detector or segmentor, not fused.
        point: (x, y) of the query, relative to the image's width and height.
    """

    def __init__(self, backbone: nn.Module, point: tuple[float, float] = (0.5, 0.5)) -> None:
        super().__init__()
        self.backbone = backbone
        self.point = point
        self.maps: dict[str, Tensor] = {}
        self.image_size: Grid = (0, 0)
        self._during = ExitStack()

    def __enter__(self) -> FeatureRecorder:
        super().__enter__()
        self.callback(self._during.close)  # the backbone may have failed
        self._hook(self.backbone, self._keep_levels, before=self._start)
        for name, module in self.backbone.named_modules():
            if isinstance(module, PixelAttention):
                keep = self._keeper(name, lambda _, out: out.sigmoid().movedim(3, 1))
                self._hook(module.pa_conv, keep)
            elif isinstance(module, GlobalPositionEmbedding):
                self._hook(module, self._keeper(name, lambda _, out: out))
            elif isinstance(module, RelativePositions):
                self._hook(module, self._keeper(name, self._relative_positions))
        return self

    def _hook(self, module: nn.Module, after: Any, before: Any = None) -> None:
        if before:
            self.callback(module.register_forward_pre_hook(before).remove)
        self.callback(module.register_forward_hook(after).remove)

    def _start(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.maps.clear()
        self.image_size = tuple(inputs[0].shape[2:])
        # every attention is a softmax there
        self._during.enter_context(use_implementation('reference'))
        self._during.enter_context(_SoftmaxRecorder(self))

    def _keep_levels(self, module: nn.Module, inputs: Any, outputs: tuple[Tensor, ...]) -> None:
        self._during.close()
        for index, level in enumerate(outputs):
            self.maps[f'level_{index}'] = level[0].detach()

    def _keeper(self, name: str, find: Any) -> Any:
        def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            found = find(inputs[0], output)
            if found is not None:
                self.maps[f'positions_{name}'] = found[0].detach()

        return keep

    def _relative_positions(self, q: Tensor, output: tuple[Tensor, Tensor]) -> Tensor | None:
        """Of the query at the point, what is added to the logits of each key."""
        grid = tuple(q.shape[1:3])
        if grid not in {self.grid(stride) for stride in (4, 8, 16, 32)}:
            return None  # of a window
        row, column = self.cell(grid)
        rows, columns = (part[:, row, column] for part in output)
        return rows[..., :, None] + columns[..., None, :]

    def grid(self, stride: int) -> Grid:
        """(rows, columns) of a map at a stride."""
        height, width = self.image_size
        return -(-height // stride), -(-width // stride)

    def cell(self, grid: Grid) -> Grid:
        """(row, column) at the point."""
        (rows, columns), (x, y) = grid, self.point
        return min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)

    def add_attention(self, weights: Tensor) -> None:
        """Keep the query's row of an attention (B, heads, N, M) whose keys are a map's cells."""
        queries, keys = (self._grid_of(count) for count in weights.shape[2:])
        if queries is None or keys is None:
            return
        (stride, grid, first), (_, key_grid, first_key) = queries, keys
        row, column = self.cell(grid)
        found = weights[0, :, first + row * grid[1] + column, first_key:]
        self.maps[f'attention_stride_{stride}'] = found.unflatten(1, key_grid).detach()

    def _grid_of(self, tokens: int) -> tuple[int, Grid, int] | None:
        """Stride and grid of a map of so many cells, and whether a class token is before it."""
        for first in (0, 1):
            for stride in _STRIDES:
                grid = self.grid(stride)
                if grid[0] * grid[1] == tokens - first and min(grid) > 1:
                    return stride, grid, first
        return None


class _SoftmaxRecorder(TorchFunctionMode):
    """Shows the recorder every softmax over the last axis of a tensor of four."""

    def __init__(self, recorder: FeatureRecorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        is_softmax = function in (Tensor.softmax, torch.softmax, nn.functional.softmax)
        if is_softmax and result.ndim == 4 and result.shape[0] == 1:
            self.recorder.add_attention(result)
        return result


def parse_point(text: str) -> tuple[float, float]:
    """A place in an image, ``X,Y``, each from 0 to 1.

    Raises:
        InputError: It is not of that form.
    """
    try:
        x, y = map(float, text.split(','))
    except ValueError:
        x = y = -1.0
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise InputError(f'{text} is no place in an image; write X,Y, each from 0 to 1')
    return x, y


def draw_features(recorder: FeatureRecorder, image: np.ndarray, folder: Path) -> Iterator[Path]:
    """Draw what was recorded over an image, the mean over channels or heads.

    Args:
        recorder: After the image went through the backbone.
        image: (H, W, 3), RGB.
        folder: Of the pictures, which are replaced.

    Yields:
        The path of each picture.
    """
    for name, found in recorder.maps.items():
        path = folder / f'{re.sub("[^A-Za-z0-9_]+", "_", name)}.jpg'
        mean = found.float().mean(dim=0)[None, None]
        mean = F.interpolate(mean, image.shape[:2], mode='bilinear')[0].cpu()
        drawn = Visualizer.draw_featmap(mean, image, alpha=0.35)
        mmcv.imwrite(np.ascontiguousarray(drawn[..., ::-1]), str(path))
        yield path
