"""How much padding changes a backbone's maps, with and without the image's valid size.

A picture of the built-in data set is computed alone and padded as a larger neighbour in a batch
would pad it; the change of a level is the root mean square of the difference over the picture's
part of the map, relative to that of the map. Without ``--checkpoint`` the weights are random.
"""

import argparse

import cv2
import numpy as np
import torch
from torch import Tensor

from mmrest.backbones import PyramidBackbone, ResFormer, ResT, ResTV2
from mmrest.checkpoints import load_pretrained
from mmrest.commands.cli import parse_shape
from mmrest.datasets.shapes import ShapesSpec, make_scene
from mmrest.errors import InputError, clear_errors

MODELS = {
    'ResT small': (ResT, dict(arch='small')),
    'ResTV2 tiny': (ResTV2, dict(arch='tiny')),
    'ResFormer small': (ResFormer, dict(arch='small')),
    'ResFormer small, windows of 14': (ResFormer, dict(arch='small', window_size=14)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--shape', default='480x640', metavar='HxW', help='of the picture')
    parser.add_argument(
        '--padded', nargs='+', default=['640x640', '800x1344'], metavar='HxW', help='of the batch'
    )
    parser.add_argument('--models', nargs='+', default=list(MODELS), choices=list(MODELS))
    parser.add_argument('--checkpoint', metavar='FILE', help='weights for the one of --models')
    args = parser.parse_args()
    with clear_errors(), torch.inference_mode():
        shape, padded = parse_shape(args.shape), [parse_shape(text) for text in args.padded]
        if any(p[0] < shape[0] or p[1] < shape[1] for p in padded):
            raise InputError(f'--padded must not be smaller than the picture, {args.shape}')
        if args.checkpoint and len(args.models) != 1:
            raise InputError('--checkpoint is for one model; name it with --models')
        models = {name: build(name, args.checkpoint) for name in args.models}
        picture = make_picture(shape)
        print(
            '| backbone | padded to | change of the levels | with valid sizes |\n|---|---|---|---|'
        )
        for name, model in models.items():
            for size in padded:
                blind, told = compare(model, picture, size)
                print(
                    f'| {name} | {size[0]}x{size[1]} | {", ".join(f"{c:.1%}" for c in blind)} '
                    f'| {max(told):.1e} |'
                )


def build(name: str, checkpoint: str | None) -> PyramidBackbone:
    """One of ``MODELS``, with random weights or those of a checkpoint."""
    torch.manual_seed(0)
    family, options = MODELS[name]
    model = family(**options).eval()
    if checkpoint:
        load_pretrained(model, checkpoint)
    return model


def make_picture(shape: tuple[int, int]) -> Tensor:
    """A picture of the shapes, normalised, (1, 3, H, W)."""
    image = make_scene(np.random.default_rng(0), ShapesSpec()).image
    image = cv2.resize(image, shape[::-1]).astype(np.float32)
    return torch.from_numpy((image - image.mean()) / image.std()).permute(2, 0, 1)[None]


def compare(
    model: PyramidBackbone, picture: Tensor, padded: tuple[int, int]
) -> tuple[list[float], list[float]]:
    """Relative change of each level by padding, without and with the valid size."""
    height, width = picture.shape[-2:]
    batch = torch.zeros(1, 3, *padded)
    batch[:, :, :height, :width] = picture
    alone = model(picture)
    blind = model(batch)
    with model.valid_sizes([(height, width)]):
        told = model(batch)
    return relative_change(blind, alone), relative_change(told, alone)


def relative_change(levels: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> list[float]:
    """Root mean square of the difference, relative to that of ``expected``, of each level."""
    changes = []
    for level, alone in zip(levels, expected, strict=True):
        part = level[:, :, : alone.shape[-2], : alone.shape[-1]]
        changes.append(((part - alone).norm() / alone.norm()).item())
    return changes


if __name__ == '__main__':
    main()
