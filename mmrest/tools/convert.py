"""Write a checkpoint's model as safetensors: ``python tools/convert_checkpoint.py SRC DST``."""

import argparse
import os

from mmrest.backbones import PyramidBackbone
from mmrest.checkpoints import (
    dataset_meta,
    model_state,
    read_checkpoint,
    save_safetensors,
    take_backbone,
)
from mmrest.errors import ArgumentParser, InputError, clear_errors


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(
        description="Write the tensors of a checkpoint (authors', detectron2's, mmengine's) as "
        'safetensors, which hold no code. Optimizer and training state are left out; key names '
        'stay, without those of wrappers. The result is read wherever mmrest reads checkpoints.'
    )
    parser.add_argument('src', help='path or URL')
    parser.add_argument('dst', help='FILE.safetensors')
    parser.add_argument('--sha256', help='expected SHA-256 of SRC')
    parser.add_argument('--backbone', action='store_true', help='only the backbone of a detector')
    parser.add_argument('--force', action='store_true', help='replace DST')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with clear_errors():
        if not args.dst.endswith('.safetensors'):
            raise InputError(f'{args.dst} should end with .safetensors')
        if os.path.exists(args.dst) and not args.force:
            raise InputError(f'{args.dst} exists; --force replaces it')
        if not os.path.isdir(folder := os.path.dirname(args.dst) or '.'):
            raise InputError(f'there is no folder {folder}')
        checkpoint = read_checkpoint(args.src, args.sha256)
        state = model_state(checkpoint, args.src)
        backbone = take_backbone(state, args.src)
        guess = PyramidBackbone.guess_variant(backbone)
        if args.backbone:
            state = backbone
        save_safetensors(state, args.dst, dict(dataset_meta=dataset_meta(checkpoint)))
    print(f'{args.dst}: {len(state)} tensors, {guess or "no backbone that mmrest knows"}')


if __name__ == '__main__':
    main()
