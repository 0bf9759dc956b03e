"""Pictures of what a backbone makes of an image: levels, position encodings, attention."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.visualization import Visualizer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmrest.backbones.layers import PixelAttention
from mmrest.backbones.p2t import PyramidPoolingAttention
from mmrest.backbones.pooling_attention import PoolingAttention, RelativePositions, pooled
from mmrest.backbones.resformer import Attention, GlobalPositionEmbedding
from mmrest.backbones.spatial_reduction import SpatialReductionAttention
from mmrest.errors import InputError
from mmrest.ops import use_implementation

Grid = tuple[int, int]
# From an attention and its inputs to the grids of queries and keys.
FindGrids = Callable[[nn.Module, tuple[Any, ...]], tuple[Grid, Grid]]


@dataclass
class Recorded:
    """A map to be drawn.

    Attributes:
        map: (channels or heads, rows, columns).
        of_point: It belongs to the query at the point.
    """

    map: Tensor
    of_point: bool = False


@dataclass
class _Attending:
    """An attention that is being computed: its module's name, queries' and keys' grids."""

    name: str
    queries: Grid
    keys: Grid


class FeatureRecorder(ExitStack):
    """Keeps what the backbone of a model computes while it is open.

    Recorded are the levels; position encodings: ResT's gates (:class:`PixelAttention`), ResFormer's
    embedding of the grid, MViTv2's relative positions of one query; and the attention of one query
    to the whole map, in the last such block of each stage. Attention in windows and stripes (Swin,
    CSWin), to groups (GPViT) and to pools of several sizes (P2T) has no map of the image.

    Args:
        model: A detector or segmentor, not fused; or a backbone alone.
        point: (x, y) of the query, relative to the image's width and height.

    Raises:
        InputError: A segmentor slides a window over its images.
    """

    def __init__(self, model: nn.Module, point: tuple[float, float] = (0.5, 0.5)) -> None:
        super().__init__()
        if (getattr(model, 'test_cfg', None) or {}).get('mode') == 'slide':
            raise InputError(
                'features are of whole images, and this segmentor slides a window over them: '
                '--cfg-options model.test_cfg.mode=whole'
            )
        self.model = model
        self.backbone = getattr(model, 'backbone', model)
        self.point = point
        self.maps: dict[str, Recorded] = {}
        # of the batch, and of the image in it, which may be padded
        self.input_size: Grid = (0, 0)
        self.image_size: Grid | None = None
        self._attending: _Attending | None = None
        self._during = ExitStack()

    def __enter__(self) -> FeatureRecorder:
        super().__enter__()
        self.callback(self._during.close)  # the backbone may have failed
        if self.model is not self.backbone:
            hook = self.model.register_forward_pre_hook(self._note_size, with_kwargs=True)
            self.callback(hook.remove)
        self._hook(self.backbone, self._keep_levels, before=self._start)
        for name, module in self.backbone.named_modules():
            self._watch(name, module)
        return self

    def _watch(self, name: str, module: nn.Module) -> None:
        if isinstance(module, PixelAttention):
            keep = self._keeper(name, lambda _, out: out.sigmoid().movedim(3, 1))
            self._hook(module.pa_conv, keep)
        elif isinstance(module, GlobalPositionEmbedding):
            self._hook(module, self._keeper(name, lambda _, out: out))
        elif isinstance(module, PoolingAttention) and not module.window_size:
            table = module.positions
            if isinstance(table, RelativePositions):
                keep = self._keeper(name, self._relative_positions, of_point=True)
                self._hook(table, keep)
        if (find_grids := _grids_of(module)) is not None:

            def begin(module: nn.Module, inputs: tuple[Any, ...]) -> None:
                self._attending = _Attending(name, *find_grids(module, inputs))

            self._hook(module, self._end_attention, before=begin)
            if isinstance(module, SpatialReductionAttention) and module.sr_norm is not None:
                self._hook(module.sr_norm, self._note_keys)

    def _hook(self, module: nn.Module, after: Any, before: Any = None) -> None:
        if before:
            self.callback(module.register_forward_pre_hook(before).remove)
        self.callback(module.register_forward_hook(after).remove)

    def _note_size(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        samples = kwargs.get('data_samples') or (args[1] if len(args) > 1 else None)
        if samples:
            self.image_size = tuple(samples[0].metainfo['img_shape'][:2])

    def _start(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.maps.clear()
        self.input_size = tuple(inputs[0].shape[2:])
        # every attention is a softmax there
        self._during.enter_context(use_implementation('reference'))
        self._during.enter_context(_SoftmaxRecorder(self))

    def _keep_levels(self, module: nn.Module, inputs: Any, outputs: tuple[Tensor, ...]) -> None:
        self._during.close()
        for index, level in enumerate(outputs):
            self._keep(f'level_{index}', level[0])

    def _keep(self, name: str, found: Tensor, of_point: bool = False) -> None:
        """Keep a map without what belongs to padding."""
        rows, columns = self._valid(tuple(found.shape[1:]))
        self.maps[name] = Recorded(found[:, :rows, :columns].detach(), of_point)

    def _valid(self, grid: Grid) -> Grid:
        """Rows and columns of a map that the image itself has."""
        image = self.image_size or self.input_size
        return tuple(
            max(1, round(cells * side / whole))
            for cells, side, whole in zip(grid, image, self.input_size, strict=True)
        )

    def _cell(self, grid: Grid) -> Grid:
        """(row, column) at the point."""
        (rows, columns), (x, y) = self._valid(grid), self.point
        return min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)

    def _keeper(self, name: str, find: Callable, of_point: bool = False) -> Callable:
        def keep(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self._keep(f'positions_{name}', find(inputs[0], output)[0], of_point)

        return keep

    def _relative_positions(self, q: Tensor, output: tuple[Tensor, Tensor]) -> Tensor:
        """Of the query at the point, what is added to the logits of each key."""
        row, column = self._cell(tuple(q.shape[1:3]))
        rows, columns = (part[:, row, column] for part in output)
        return rows[..., :, None] + columns[..., None, :]

    def _note_keys(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if self._attending is not None:
            self._attending.keys = tuple(output.shape[1:3])

    def _end_attention(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._attending = None

    def add_attention(self, weights: Tensor) -> None:
        """Keep the query's row of an attention (B, heads, N, M), if it is that to a whole map."""
        if self._attending is None or weights.ndim != 4:
            return
        (rows, columns), keys = self._attending.queries, self._attending.keys
        # class tokens come first
        first, first_key = weights.shape[2] - rows * columns, weights.shape[3] - keys[0] * keys[1]
        if first != first_key or first not in (0, 1):
            return
        row, column = self._cell((rows, columns))
        found = weights[0, :, first + row * columns + column, first_key:].unflatten(1, keys)
        stage = re.match(r'stages\.(\d+)\.', self._attending.name)
        label = f'attention_stages_{stage[1]}' if stage else 'attention'
        self._keep(label, found, of_point=True)


def _grids_of(
    module: nn.Module,
) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Grid, Grid]] | None:
    """What tells the grids of queries and keys from an attention's inputs, if it has such."""
    if isinstance(module, PyramidPoolingAttention):
        return None
    if isinstance(module, SpatialReductionAttention):  # the keys' is noted when they are reduced
        return lambda _, inputs: (tuple(inputs[0].shape[1:3]),) * 2
    if isinstance(module, PoolingAttention) and not module.window_size:
        return lambda m, inputs: (pooled(inputs[1], m.q_stride), pooled(inputs[1], m.kv_stride))
    if isinstance(module, Attention) and not module.window_size:
        return lambda _, inputs: (tuple(inputs[1]),) * 2
    return None


class _SoftmaxRecorder(TorchFunctionMode):
    """Shows the recorder every softmax."""

    def __init__(self, recorder: FeatureRecorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in (Tensor.softmax, torch.softmax, F.softmax):
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
    """Draw what was recorded over an image, the mean over channels or heads: red is large.

    A cross marks the point in pictures that belong to it.

    Args:
        recorder: After the image went through the backbone.
        image: (H, W, 3), RGB.
        folder: Of the pictures; those of an earlier run are removed.

    Yields:
        The path of each picture.
    """
    for old in folder.glob('*.jpg'):
        old.unlink()
    height, width = image.shape[:2]
    place = tuple(
        min(int(at * side), side - 1)
        for at, side in zip(recorder.point, (width, height), strict=True)
    )
    for name, found in recorder.maps.items():
        path = folder / f'{re.sub("[^A-Za-z0-9_]+", "_", name)}.jpg'
        mean = found.map.float().mean(dim=0)[None, None]
        mean = F.interpolate(mean, (height, width), mode='bilinear')[0].cpu()
        drawn = np.ascontiguousarray(Visualizer.draw_featmap(mean, image, alpha=0.35)[..., ::-1])
        if found.of_point:
            for colour, thickness in ((0, 5), (255, 2)):
                cv2.drawMarker(drawn, place, (colour,) * 3, cv2.MARKER_CROSS, 16, thickness)
        mmcv.imwrite(drawn, str(path))
        yield path
