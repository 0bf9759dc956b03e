"""Time and peak memory of backbones and models: ``python -m mmrest benchmark MODEL [MODEL ...]``.

A MODEL is a registered backbone with its arguments, for example ``ResT:arch=small``,
``ResFormer:arch=base,window_size=14`` or ``mmdet.ResNet:depth=50``; a class of any module that can
be imported, ``my_package.my_module.MyBackbone:depth=3``; or the config of a whole detector or
segmentor. With several ``--impl``, each MODEL is measured with each implementation of
its operators. Every row of the table is a process of its own; all take their steps in turn, and
"time / first" is the median of this row's time over the first row's of the same shape, pair by
pair. Inference is with the model fused (``--no-fuse`` leaves it as it is trained). Memory is the
most that the process (CPU: resident memory, libraries included) or the device (CUDA) held; "work"
is what the steps added to what was held before them. "% of peak" is the counted arithmetic (GMACs,
three times for a training step) against the fastest matrix product of this machine; norms,
activations and softmax are not counted, nor what a backward pass computes anew. Both are given for
backbones alone.
"""

import argparse
from contextlib import ExitStack, suppress
from statistics import median

import torch

from mmrest.benchmark.complexity import count_image, count_parameters
from mmrest.benchmark.machine import describe_machine, measure_peak, write_measurements
from mmrest.benchmark.measuring import Case, Result, measure_in_turn
from mmrest.benchmark.models import build_backbone, build_outline, parse_model, read_config
from mmrest.commands.cli import add_config_options, parse_shape
from mmrest.commands.config import load_config, saved_config
from mmrest.commands.image_size import OF_PAPERS, usual_shape
from mmrest.commands.output_files import require_new_file, require_new_picture
from mmrest.engine.compiling import require_compiler
from mmrest.engine.image_channels import image_channels
from mmrest.errors import ArgumentParser, InputError, clear_errors
from mmrest.ops.dispatch import IMPLEMENTATIONS

COLUMNS = (
    'model', 'impl', 'shape', 'mode', 'batch', 'dtype', 'parameters (M)', 'GMACs', 'ms',
    'ms range', 'time / first', '% of peak', 'peak MB', 'peak / first', 'work MB',
)  # fmt: skip


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__.splitlines()[0].replace('`', ''))
    parser.add_argument('models', nargs='+', metavar='MODEL', help='TYPE[:key=value,...] or CONFIG')
    parser.add_argument(
        '--against', nargs='+', default=[], metavar='MODEL', help='peers, measured once each'
    )
    parser.add_argument(
        '--impl',
        nargs='+',
        choices=IMPLEMENTATIONS,
        default=['auto'],
        help='implementations of attention',
    )
    parser.add_argument('--compile', action='store_true', help='torch.compile the backbones')
    parser.add_argument(
        '--no-fuse', action='store_true', help='infer with the model as it is trained'
    )
    parser.add_argument(
        '--shapes',
        nargs='+',
        metavar='HxW',
        help="(default: that of the first config's images; of backbones 800x1344)",
    )
    parser.add_argument('--mode', nargs='+', choices=['infer', 'train'], default=['infer'])
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--threads', type=int, default=0, help='of the processor; 0: all')
    parser.add_argument('--steps', type=int, default=5, help='of each model, after a warm-up')
    parser.add_argument('--csv', metavar='FILE', help='write the table here too, with the machine')
    parser.add_argument('--plot', metavar='FILE', help='draw time and memory into a picture')
    parser.add_argument('--force', action='store_true', help='replace the files')
    add_config_options(parser, 'change every config among the models')
    return parser.parse_args()


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be measured, before anything is."""
    if args.steps < 1 or args.batch_size < 1 or args.threads < 0:
        raise InputError('--steps and --batch-size must be at least 1, --threads at least 0')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise InputError('--device cuda: torch sees no GPU here')
    if args.compile:
        require_compiler()
    if args.csv:
        require_new_file('--csv', args.csv, args.force, '--force replaces it')
    if args.plot:
        require_new_picture('--plot', args.plot, args.force, '--force replaces it')


def main() -> None:
    args = parse_args()
    with clear_errors():
        shapes = [parse_shape(text) for text in args.shapes or ()]
        check(args)
        parsed = {text: parse_model(text) for text in (*args.models, *args.against)}
        configs = [model for model in parsed.values() if isinstance(model, str)]
        if args.cfg_options and not configs:
            raise InputError(
                '--cfg-options change configs, and none is named; arguments of a backbone follow '
                'its type, TYPE:key=value'
            )
        with ExitStack() as files:
            for text, model in parsed.items():
                if isinstance(model, str):
                    parsed[text] = files.enter_context(saved_config(model, args.cfg_options))
            if not shapes:
                shapes = [usual_shape(load_config(path)) for path in configs[:1]] or [OF_PAPERS]
            measure(args, parsed, shapes)


def measure(
    args: argparse.Namespace, parsed: dict[str, dict | str], shapes: list[tuple[int, int]]
) -> None:
    """Print the table and write it where the arguments say."""
    rows = [(text, parsed[text], impl) for text in args.models for impl in args.impl]
    rows += [(text, parsed[text], 'auto') for text in args.against]
    # building them now shows what is wrong with them
    models = {text: _on_meta(model) for text, model, _ in rows}
    peak = measure_peak(args.device, args.dtype, args.threads)
    table, failed = [], False
    print(f'| {" | ".join(COLUMNS)} |\n|{"---|" * len(COLUMNS)}')
    for mode in args.mode:
        for shape in shapes:
            common = (shape, mode, args.batch_size, args.dtype, args.device, args.threads)
            cases = [
                Case(model, *common, impl, args.compile, _fuses(args, impl))
                for _, model, impl in rows
            ]
            results = measure_in_turn(cases, args.steps)
            for (text, _, impl), result in zip(rows, results, strict=True):
                failed |= result.error is not None
                shown = '' if text in args.against else impl
                shown += ' compiled' if args.compile else ''
                table.append(describe(text, shown, models[text], result, results[0], peak))
                print(f'| {" | ".join(table[-1])} |', flush=True)
    if args.csv:
        write_csv(args.csv, table, args, peak)
        print(f'written to {args.csv}')
    if args.plot:
        draw(args.plot, table)
        print(f'drawn into {args.plot}')
    if failed:
        raise InputError('not every model could be measured; the table has the reasons')


def _fuses(args: argparse.Namespace, impl: str) -> bool:
    """Whether inference is fused; the reference is the papers' equations, literally."""
    return not (args.no_fuse or args.compile or impl == 'reference')


def _on_meta(model: dict | str) -> torch.nn.Module:
    if isinstance(model, str):
        return build_outline(read_config(model))
    built = build_backbone(model)
    built.eval()  # mmdet's return None from it
    return built.to('meta')


def describe(
    name: str, impl: str, model: torch.nn.Module, result: Result, first: Result, peak: float
) -> list[str]:
    """A row of the table."""
    case = result.case
    row = [name, impl, f'{case.shape[0]}x{case.shape[1]}', case.mode, str(case.batch_size)]
    row.append(case.dtype)
    if result.error:
        return [*row, result.error, *[''] * (len(COLUMNS) - len(row) - 1)]
    row.append(f'{count_parameters(model):.2f}')
    macs = None
    if isinstance(case.model, dict):
        with suppress(InputError):  # mmcv's operators want numbers
            macs = case.batch_size * count_image(model, image_channels(model), case.shape)
    seconds = result.median_seconds
    rate = '' if macs is None else 2e9 * macs * (3 if case.mode == 'train' else 1) / seconds / peak
    pairs = list(zip(first.seconds, result.seconds, strict=False))
    return [
        *row,
        '' if macs is None else f'{macs:.2f}',
        f'{seconds * 1e3:.1f}',
        f'{min(result.seconds) * 1e3:.0f}-{max(result.seconds) * 1e3:.0f}',
        f'{median(b / a for a, b in pairs):.2f}' if pairs else '',
        '' if macs is None else f'{100 * rate:.0f}',
        f'{result.peak_bytes / 1e6:.0f}',
        f'{result.peak_bytes / first.peak_bytes:.2f}' if first.peak_bytes else '',
        f'{result.work_bytes / 1e6:.0f}',
    ]


def write_csv(path: str, rows: list[list[str]], args: argparse.Namespace, peak: float) -> None:
    """The table, with a column for each fact about the machine."""
    environment = {
        **describe_machine(args.device, args.threads),
        'peak GFLOP/s': f'{peak / 1e9:.0f}',
        'steps': str(args.steps),
    }
    write_measurements(path, COLUMNS, rows, environment)


def draw(path: str, rows: list[list[str]]) -> None:
    """Time and memory of every model against the megapixels of a step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout='constrained')
    panels = figure.subplots(1, 2)
    series: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        cells = dict(zip(COLUMNS, row, strict=True))
        if cells['ms']:
            label = f'{cells["model"]} {cells["impl"]} {cells["mode"]}'
            series.setdefault(label.replace(' auto ', ' '), []).append(cells)
    for panel, column in zip(panels, ('ms', 'peak MB'), strict=True):
        for label, points in series.items():
            sizes = [_megapixels(cells) for cells in points]
            panel.plot(sizes, [float(cells[column]) for cells in points], 'o-', label=label)
        panel.set(xscale='log', yscale='log', xlabel='megapixels a step', ylabel=column)
        sizes = sorted({_megapixels(cells) for points in series.values() for cells in points})
        panel.set_xticks(sizes, labels=[f'{size:.2g}' for size in sizes])
        panel.set_xticks([], minor=True)
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize='small')
    figure.savefig(path)


def _megapixels(cells: dict[str, str]) -> float:
    height, width = cells['shape'].split('x')
    return int(cells['batch']) * int(height) * int(width) / 1e6


if __name__ == '__main__':
    main()
