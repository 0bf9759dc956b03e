"""What each trick is worth: every one switched off alone, in processes that take steps in turn.

``python docs/scripts/ablation.py --csv docs/benchmarks/ablation.csv`` measures the tricks;
``--constants`` measures every constant at a quarter and four times its value instead. A trick stays
in the package only if the table shows what it is worth: more than the noise, 5 % of the time or
40 MB.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

from mmrest.benchmark.machine import describe_machine, write_measurements
from mmrest.benchmark.measuring import Case, Result, measure_in_turn
from mmrest.benchmark.models import parse_model
from mmrest.commands.cli import parse_shape
from mmrest.commands.output_files import require_new_file
from mmrest.errors import InputError, clear_errors

MODELS = 'ResT:arch=small', 'ResTV2:arch=tiny', 'ResFormer:arch=small'
COLUMNS = 'model', 'mode', 'shape', 'off', 'ms', 'ms range', 'times', 'peak MB', 'more MB'
# Where each constant is.
CONSTANTS = (
    'mmrest.ops.dispatch._SMALLEST_BLOCKWISE_MAP',
    'mmrest.ops.blockwise._BLOCK_ELEMENTS',
    'mmrest.ops.blockwise._FEWEST_QUERIES',
    'mmrest.ops.cpu.matmul._LARGE_WEIGHT',
    'mmrest.ops.cpu.mlp._CHUNK_ELEMENTS',
    'mmrest.ops.cpu.mlp._FEWEST_TOKENS',
    'mmrest.ops.strips._STRIP_ELEMENTS',
)


def set_attribute(place: str, value: object) -> None:
    module, _, name = place.rpartition('.')
    module = importlib.import_module(module)
    if not hasattr(module, name):
        raise AttributeError(f'{place} is no more')
    setattr(module, name, value)


def without_blockwise_attention() -> None:
    """ResT's attention with its whole map, plain attention by torch's own."""
    reference = importlib.import_module('mmrest.ops.reference')

    def literal(q, k, v, mix_weight, mix_bias, eps):
        return reference.emsa(q, k, v, reference.mix_by(mix_weight, mix_bias), eps)

    set_attribute('mmrest.ops.functional.attend_blockwise', literal)
    set_attribute('mmrest.ops.dispatch._blockwise_beats_sdpa', lambda q, k: False)
    dispatch = importlib.import_module('mmrest.ops.dispatch')
    set_attribute('mmrest.ops.dispatch.choose_attention_with_positions', dispatch.choose_attention)


def without_onednn() -> None:
    """All matmuls by MKL."""
    set_attribute('mmrest.ops.cpu.matmul.HAS_ONEDNN', False)


def without_mlp_operator() -> None:
    """Two linear layers, by oneDNN, and the hidden layer as a whole."""
    functional = importlib.import_module('mmrest.ops.functional')

    def layers(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias, *norm):
        if norm:
            x = functional.F.layer_norm(x, x.shape[-1:], *norm)
        hidden = functional.F.gelu(functional.linear(x, fc1_weight, fc1_bias))
        return functional.linear(hidden, fc2_weight, fc2_bias)

    set_attribute('mmrest.ops.functional.mlp_in_chunks', layers)


def without_norm_in_mlp() -> None:
    """The LayerNorm in front of an MLP by itself; what it gives is stored for the backward pass."""
    ops, functional = (importlib.import_module(f'mmrest.ops{name}') for name in ('', '.functional'))

    def in_turn(x, norm_weight, norm_bias, eps, *weights):
        y = functional.F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
        return ops.mlp(y, *weights)

    set_attribute('mmrest.backbones.layers.normalized_mlp', in_turn)


def without_stored_hidden_layers() -> None:
    """The hidden layer of a small MLP computed anew in the backward pass, as a large one's is."""
    set_attribute('mmrest.ops.functional.is_one_chunk', lambda tokens, hidden_channels: False)


def with_the_other_library_in_blocks() -> None:
    """Blocks of attention multiply by the library that is not chosen on this processor."""
    matmul = importlib.import_module('mmrest.ops.cpu.matmul')
    set_attribute('mmrest.ops.cpu.matmul._MKL_IN_BLOCKS', not matmul._MKL_IN_BLOCKS)


def without_fused_blocks() -> None:
    """Attention with positions by products and a softmax in its forward pass, too."""
    set_attribute('mmrest.ops.blockwise.is_fused_faster', lambda *_: False)


def without_alignment() -> None:
    """Blocks of attention as wide as there are keys."""
    set_attribute('mmrest.ops.blockwise._ALIGNMENT', 1)


def without_strips() -> None:
    """What convolutions in an MLP see (PVT v2, P2T) as a whole."""
    set_attribute('mmrest.ops.strips._STRIP_ELEMENTS', sys.maxsize)


def without_convolution_gradients() -> None:
    """Weights' gradients as matmuls, as they are anyway where MKL is fast (see ``matmul.py``)."""

    def add(total, grad, x) -> None:
        total.addmm_(grad.t(), x)

    set_attribute('mmrest.ops.cpu.matmul.add_weight_gradient', add)


def without_recomputed_poolings() -> None:
    """What MViTv2 pools is stored for the backward pass."""

    def compute(function, *tensors):
        return function(*tensors)

    set_attribute('mmrest.backbones.pooling_attention.recompute', compute)


def without_fusing() -> None:
    """Inference with the model as it is trained; see :func:`main`."""


# What is switched off, in which modes it acts, and in which families' models if not in all.
TRICKS: dict[str, tuple[Callable[[], None], str, str | tuple[str, ...]]] = {
    'attention in blocks': (without_blockwise_attention, 'infer train', ''),
    "oneDNN's matmuls": (without_onednn, 'infer train', ''),
    'MLP as one operator': (without_mlp_operator, 'infer train', ''),
    'norm and MLP as one': (without_norm_in_mlp, 'infer train', ''),
    'small hidden layers stored': (without_stored_hidden_layers, 'train', ''),
    'the faster library in blocks': (with_the_other_library_in_blocks, 'infer train', ''),
    'fused attention in blocks': (without_fused_blocks, 'infer train', 'MViTV2'),
    'aligned rows of maps': (without_alignment, 'infer train', ''),
    "weights' gradients as convolutions": (without_convolution_gradients, 'train', ''),
    'maps in strips': (without_strips, 'infer', ('P2T', 'PVTV2')),
    'fusing': (without_fusing, 'infer', ''),
    'poolings computed again': (without_recomputed_poolings, 'train', 'MViTV2'),
}


def prepare(trick: str) -> None:
    """Called by a worker: switch a trick off, or give a constant another value (NAME=VALUE)."""
    if '=' in trick:
        place, value = trick.split('=')
        set_attribute(place, int(value))
    elif trick:
        TRICKS[trick][0]()


def variants_of(model: str, mode: str, constants: bool) -> list[str]:
    """What is measured beside the package as it is."""
    if not constants:
        return [
            name
            for name, (_, modes, family) in TRICKS.items()
            if mode in modes.split() and model.startswith(family)
        ]
    tried = []
    for place in CONSTANTS:
        module, _, name = place.rpartition('.')
        value = getattr(importlib.import_module(module), name)
        tried += [f'{place}={value // 4}', f'{place}={value * 4}']
    return tried


def between(first: Result, last: Result) -> Result:
    """The mean of two: on some machines processes are faster the later they are started."""
    if first.error or last.error:
        return first if first.error else last
    seconds = [(a + b) / 2 for a, b in zip(first.seconds, last.seconds, strict=True)]
    return replace(first, seconds=seconds, peak_bytes=(first.peak_bytes + last.peak_bytes) // 2)


def describe(model: str, off: str, result: Result, first: Result) -> list[str]:
    case = result.case
    row = [model, case.mode, f'{case.shape[0]}x{case.shape[1]}', off or 'nothing']
    if result.error:
        return [*row, result.error, '', '', '', '']
    pairs = [b / a for a, b in zip(first.seconds, result.seconds, strict=True)]
    return [
        *row,
        f'{1e3 * result.median_seconds:.0f}',
        f'{1e3 * min(result.seconds):.0f}-{1e3 * max(result.seconds):.0f}',
        f'{median(pairs):.2f}',
        f'{result.peak_bytes / 1e6:.0f}',
        f'{(result.peak_bytes - first.peak_bytes) / 1e6:+.0f}',
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--models', nargs='+', default=MODELS)
    parser.add_argument('--mode', nargs='+', choices=['infer', 'train'], default=['infer', 'train'])
    parser.add_argument('--infer-shape', default='800x1344')
    parser.add_argument('--train-shape', default='640x800')
    parser.add_argument('--constants', action='store_true')
    parser.add_argument('--threads', type=int, default=0)
    parser.add_argument('--steps', type=int, default=5)
    parser.add_argument('--csv', metavar='FILE')
    parser.add_argument('--force', action='store_true', help='replace the file')
    args = parser.parse_args()
    with clear_errors():
        if args.csv:
            require_new_file('--csv', args.csv, args.force, '--force replaces it')
        if args.steps < 1:
            raise InputError('--steps must be at least 1')
        shapes = dict(infer=parse_shape(args.infer_shape), train=parse_shape(args.train_shape))
        table = []
        print(f'| {" | ".join(COLUMNS)} |\n|{"---|" * len(COLUMNS)}')
        for model in args.models:
            for mode in args.mode:
                offs = ['', *variants_of(model, mode, args.constants), '']
                common = dict(shape=shapes[mode], mode=mode, threads=args.threads)
                cases = [
                    Case(
                        parse_model(model),
                        **common,
                        fused=off != 'fusing',
                        prepare=(str(Path(__file__).resolve()), off),
                    )
                    for off in offs
                ]
                first, *results, last = measure_in_turn(cases, args.steps)
                as_it_is = between(first, last)
                for off, result in zip(offs, [as_it_is, *results], strict=False):
                    table.append(describe(model, off, result, as_it_is))
                    print(f'| {" | ".join(table[-1])} |', flush=True)
        if args.csv:
            facts = {**describe_machine('cpu', args.threads), 'steps': str(args.steps)}
            write_measurements(args.csv, COLUMNS, table, facts)


if __name__ == '__main__':
    main()
