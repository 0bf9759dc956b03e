"""Time and peak memory of backbones: ``python tools/benchmark.py MODEL [MODEL ...]``.

A MODEL is a registered type with its arguments, for example ``ResT:arch=small``,
``ResFormer:arch=base,window_size=14`` or ``mmdet.ResNet:depth=50``. Every model runs in a process
of its own; all take their steps in turn, and ratios are medians over pairs of steps of the same
round. Memory is the most that the process (CPU: resident memory, libraries included) or the device
(CUDA) held; "work" is what the steps added to what was held before them.
"""

import argparse
import ast
import csv
import os
import platform
from datetime import date
from statistics import median

import torch

from mmrest.engine.benchmark import Case, Result, build_backbone, measure_in_turn
from mmrest.engine.cli import parse_shape
from mmrest.engine.complexity import count_macs, count_parameters
from mmrest.errors import InputError, clear_errors

COLUMNS = (
    'model', 'shape', 'mode', 'batch', 'dtype', 'parameters (M)', 'GMACs', 'ms', 'ratio', 'peak MB',
    'work MB',
)  # fmt: skip


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('models', nargs='+', metavar='MODEL', help='TYPE[:key=value,...]')
    parser.add_argument('--shapes', nargs='+', default=['800x1344'], metavar='HxW')
    parser.add_argument('--mode', nargs='+', choices=['infer', 'train'], default=['infer'])
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--threads', type=int, default=0, help='of the processor; 0: all')
    parser.add_argument('--steps', type=int, default=5, help='of each model, after a warm-up')
    parser.add_argument('--csv', metavar='FILE', help='write the table here too, with the machine')
    parser.add_argument('--force', action='store_true', help='replace the file of --csv')
    return parser.parse_args()


def parse_model(text: str) -> dict:
    """A registry's config from ``TYPE:key=value,key=value``.

    Raises:
        InputError: It is not of that form.
    """
    kind, _, arguments = text.partition(':')
    cfg = dict(type=kind)
    try:
        call = ast.parse(f'model({arguments})', mode='eval').body
        if call.args:
            raise ValueError('an argument without a name')
        for keyword in call.keywords:
            # a bare word is a string, so that a shell needs no quotes
            word = isinstance(keyword.value, ast.Name)
            cfg[keyword.arg] = keyword.value.id if word else ast.literal_eval(keyword.value)
    except (ValueError, SyntaxError) as error:
        raise InputError(
            f"{text}: write TYPE:key=value,key=value, for example 'ResFormer:arch=base,"
            "window_size=14,global_blocks=(2,5)'"
        ) from error
    return cfg


def main() -> None:
    args = parse_args()
    with clear_errors():
        configs = [parse_model(text) for text in args.models]
        shapes = [parse_shape(text) for text in args.shapes]
        if args.steps < 1 or args.batch_size < 1 or args.threads < 0:
            raise InputError('--steps and --batch-size must be at least 1, --threads at least 0')
        if args.device == 'cuda' and not torch.cuda.is_available():
            raise InputError('--device cuda: torch sees no GPU here')
        if args.csv:
            require_new_file(args.csv, args.force)
        for cfg in configs:
            with torch.device('meta'):
                build_backbone(cfg)
        rows, failed = [], False
        print(f'| {" | ".join(COLUMNS)} |\n|{"---|" * len(COLUMNS)}')
        for mode in args.mode:
            for shape in shapes:
                cases = [
                    Case(cfg, shape, mode, args.batch_size, args.dtype, args.device, args.threads)
                    for cfg in configs
                ]
                results = measure_in_turn(cases, args.steps)
                for name, result in zip(args.models, results, strict=True):
                    failed |= result.error is not None
                    rows.append(describe(name, result, results[0]))
                    print(f'| {" | ".join(rows[-1])} |', flush=True)
        if args.csv:
            write_csv(args.csv, rows, args)
            print(f'written to {args.csv}')
        if failed:
            raise InputError('not every model could be measured; the table has the reasons')


def require_new_file(path: str, replace: bool) -> None:
    """Check that a file can be written, before anything is measured.

    Raises:
        InputError: It exists and may not be replaced, is a folder, or its folder is missing.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise InputError(f'--csv {path} cannot be written: it or its folder is no place for a file')
    if os.path.exists(path) and not replace:
        raise InputError(f'{path} exists; --force replaces it')


def describe(name: str, result: Result, first: Result) -> list[str]:
    """A row of the table; ``ratio`` is the first model's time over this one's."""
    case = result.case
    row = [
        name, f'{case.shape[0]}x{case.shape[1]}', case.mode, str(case.batch_size), case.dtype,
    ]  # fmt: skip
    if result.error:
        return [*row, result.error, *[''] * (len(COLUMNS) - len(row) - 1)]
    with torch.device('meta'):
        model = build_backbone(case.model)
        model.eval()  # mmdet's return None from it
        images = torch.empty(case.batch_size, 3, *case.shape)
    row += [f'{count_parameters(model):.2f}', f'{count_macs(model, images):.2f}']
    pairs = list(zip(first.seconds, result.seconds, strict=False))
    ratio = f'{median(a / b for a, b in pairs):.2f}' if pairs else ''
    memory = [f'{size / 1e6:.0f}' for size in (result.peak_bytes, result.work_bytes)]
    return [*row, f'{result.median_seconds * 1e3:.1f}', ratio, *memory]


def write_csv(path: str, rows: list[list[str]], args: argparse.Namespace) -> None:
    """The table, with a column for each fact about the machine."""
    device = torch.cuda.get_device_name() if args.device == 'cuda' else platform.machine()
    environment = dict(
        date=date.today().isoformat(),
        device=device,
        cores=str(os.cpu_count()),
        threads=str(args.threads or torch.get_num_threads()),
        torch=torch.__version__,
        python=platform.python_version(),
    )
    with open(path, 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *environment])
        writer.writerows([*row, *environment.values()] for row in rows)


if __name__ == '__main__':
    main()
