"""What the steps of a model spend their time on, by kinds of torch's operators.

``python docs/scripts/where_time_goes.py MViTV2:arch=tiny`` profiles the literal form and the fast
one. What a form spends on products, convolutions, norms, softmax and GELU is no floor for another:
the same operators are faster in the cache, and some are computed twice to keep less memory.
"""

import argparse
from collections import Counter
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from mmrest.benchmark.machine import describe_machine, write_measurements
from mmrest.benchmark.measuring import Case, take_step
from mmrest.benchmark.models import build_step, parse_model
from mmrest.commands.cli import parse_shape
from mmrest.commands.output_files import require_new_file
from mmrest.engine.image_channels import image_channels
from mmrest.errors import InputError, clear_errors
from mmrest.inference import fuse
from mmrest.ops import use_implementation
from mmrest.ops.dispatch import IMPLEMENTATIONS

COLUMNS = 'model', 'impl', 'mode', 'shape', 'kind', 'ms', '% of step'
REST = 'copies, sums and all else'
# Words in the names of torch's operators, the first that fits.
KINDS = {
    'convolutions': ('convolution',),
    'products': ('mm', '_linear_pointwise', 'scaled_dot_product'),
    'norms': ('_norm',),
    'softmax and GELU': ('softmax', 'gelu'),
}


def kind_of(operator: str) -> str:
    """The kind of an operator, from its name."""
    library, _, name = operator.partition('::')
    if library in ('aten', 'mkldnn') and 'vector_norm' not in name:
        for kind, words in KINDS.items():
            if any(word in name for word in words):
                return kind
    return REST  # also what runs between the operators that one of mmrest's calls


def profile_steps(case: Case, steps: int) -> dict[str, float]:
    """Seconds of a step by kind, medians of several after two that warm up."""
    model, step = build_step(case.model, case.shape, case.mode, case.batch_size)
    model.train(case.mode == 'train')
    if case.mode == 'infer':
        model = fuse(model)
    images = torch.randn(case.batch_size, image_channels(model), *case.shape)
    found: dict[str, list[float]] = {kind: [] for kind in (*KINDS, REST)}
    for index in range(steps + 2):
        with use_implementation(case.impl), profile(activities=[ProfilerActivity.CPU]) as profiler:
            take_step(model, step, images, case)
        seconds: Counter[str] = Counter()
        for event in profiler.key_averages():
            seconds[kind_of(event.key)] += event.self_cpu_time_total / 1e6
        if index >= 2:
            for kind, values in found.items():
                values.append(seconds[kind])
    return {kind: median(values) for kind, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('model', help='a backbone, for example MViTV2:arch=tiny')
    parser.add_argument('--impl', nargs='+', choices=IMPLEMENTATIONS, default=['auto', 'reference'])
    parser.add_argument('--mode', nargs='+', choices=['infer', 'train'], default=['train'])
    parser.add_argument('--shape', default='800x1344')
    parser.add_argument('--threads', type=int, default=0, help='0 leaves the choice to torch')
    parser.add_argument('--steps', type=int, default=5)
    parser.add_argument('--csv', metavar='FILE')
    parser.add_argument('--force', action='store_true', help='replace the file')
    args = parser.parse_args()
    with clear_errors():
        if args.csv:
            require_new_file('--csv', args.csv, args.force, '--force replaces it')
        if args.steps < 1 or args.threads < 0:
            raise InputError('--steps must be at least 1, --threads at least 0')
        if args.threads:
            torch.set_num_threads(args.threads)
        model, shape = parse_model(args.model), parse_shape(args.shape)
        table = []
        print(f'| {" | ".join(COLUMNS)} |\n|{"---|" * len(COLUMNS)}')
        for mode in args.mode:
            for impl in args.impl:
                seconds = profile_steps(Case(model, shape, mode, impl=impl), args.steps)
                whole = sum(seconds.values())
                for kind, spent in seconds.items():
                    cells = f'{1e3 * spent:.0f}', f'{100 * spent / whole:.1f}'
                    table.append((args.model, impl, mode, args.shape, kind, *cells))
                    print(f'| {" | ".join(table[-1])} |', flush=True)
        if args.csv:
            facts = {**describe_machine('cpu', args.threads), 'steps': str(args.steps)}
            write_measurements(args.csv, COLUMNS, table, facts)


if __name__ == '__main__':
    main()
