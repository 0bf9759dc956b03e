"""Write docs/benchmarks.md from what the benchmark tools wrote into docs/benchmarks/.

``python docs/scripts/write_benchmarks.py --measure`` first measures what has no file there yet (an
hour and more on 2 cores with nothing else running); ``--device cuda`` measures the GPU's tables
instead.
"""

import argparse
import csv
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmrest.commands.output_files import require_new_file
from mmrest.errors import InputError, clear_errors

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'docs/benchmarks'
DOCUMENT = ROOT / 'docs/benchmarks.md'
FLOORS = 'docs/scripts/attention_floors.py'
FEATURED = ('model', 'impl', 'mode', 'ms', 'time / first', '% of peak', 'peak MB', 'peak / first')
PEERS = (
    'mmdet.ResNet:depth=50 mmdet.SwinTransformer '
    'mmdet.PyramidVisionTransformerV2:embed_dims=64,num_layers=[2,2,2,2]'
)
MORE_PEERS = (
    'mmdet.PyramidVisionTransformer:num_layers=[3,4,6,3] '
    'mmdet.PyramidVisionTransformerV2:embed_dims=64,num_layers=[3,4,6,3]'
)


@dataclass(frozen=True)
class Study:
    """Some runs of the benchmark, a file each.

    Attributes:
        title: Of the section.
        text: Below the title.
        runs: Name of a file and arguments of the tool.
        tool: The script, from the repository's root.
        growth: Whether time and memory are to be fitted against the pixels.
        device: ``'cpu'`` or ``'cuda'``.
        environment: Variables that the runs need.
    """

    title: str
    text: str
    runs: dict[str, str]
    tool: str = 'tools/benchmark.py'
    growth: bool = False
    device: str = 'cpu'
    environment: dict[str, str] = field(default_factory=dict)


def _compared(model: str, steps: int, more: str = '', shape: str = '800x1344') -> str:
    return (
        f'{model} --impl auto reference {more}--shapes {shape} --mode infer train --steps {steps}'
    )


REST = _compared('ResT:arch=small', 3, f'--against {PEERS} ')
REST_V2 = _compared('ResTV2:arch=tiny', 5)
RESFORMER = _compared('ResFormer:arch=small', 3, shape='1024x1024')


EARLIER = (
    'by an earlier version, without strips and chunks in inference, without products of all heads '
    'at once and with an MLP whose hidden layer was not transposed for its gradients'
)
# of glibc's malloc, which then keeps what is freed
KEPT = {'MALLOC_TRIM_THRESHOLD_': '8000000000', 'MALLOC_MMAP_THRESHOLD_': '8000000000'}


def _elsewhere(title: str, text: str, prefix: str) -> Study:
    runs = {'rest_small': REST, 'restv2_tiny': REST_V2, 'resformer_small': RESFORMER}
    runs = {f'{prefix}_{name}': arguments for name, arguments in runs.items()}
    text = f'The main comparisons on another processor, {EARLIER}. {text}'
    return Study(title, text, runs)


STUDIES = (
    Study(
        'ResT against the literal form and other backbones',
        'One image of 800x1344. `reference` is the paper literally, with every attention map '
        "stored and torch's own linear layers. The peers are mmdet's.",
        {
            'rest_small': REST,
            'rest_base': _compared('ResT:arch=base', 2),
            'rest_large': _compared('ResT:arch=large', 1),
            'rest_small_more_peers': f'ResT:arch=small --against {MORE_PEERS} --shapes 800x1344 '
            '--mode infer train --steps 2',
        },
    ),
    Study(
        'ResTv2 and ResFormer against their literal forms',
        'ResTv2-tiny at 800x1344; ResFormer-small with global attention and its pyramid at '
        '1024x1024.',
        {
            'restv2_tiny': REST_V2,
            'resformer_small': RESFORMER,
        },
    ),
    Study(
        'The same where memory is kept',
        'With glibc told to keep what is freed; otherwise it returns large maps to the system, '
        'which has to map and clear them again for the next layer. The literal forms and the '
        'peers, which use more memory, gain most by it: ResNet-50 is then as fast as ResT-small in '
        'inference and faster in training. The lead in memory is larger. So on a processor much of '
        'the tables above is the cost of memory, which these variables reduce, at the price of a '
        'larger peak.',
        {'kept_rest_small': REST, 'kept_restv2_tiny': REST_V2, 'kept_resformer_small': RESFORMER},
        environment=KEPT,
    ),
    _elsewhere(
        'The same on Intel',
        'The literal forms of ResTv2 and ResFormer come closer there: ResTv2 falls short of being '
        '2.5 times as fast in inference and twice in training, ResFormer of 3 times in both.',
        'intel',
    ),
    _elsewhere(
        'The same on AMD Zen 4',
        'ResTv2 falls short of being 2.5 times as fast as its literal form in inference and twice '
        'in training, ResFormer of 3 times in inference.',
        'zen4',
    ),
    Study(
        'The same on AMD Zen 4 where memory is kept',
        f'As above, {EARLIER}. There, what was left of the lead over `reference` in time was '
        'small, and ResNet-50, Swin-T and PVTv2-B1 were faster than ResT-small.',
        {'zen4_kept_rest_small': REST, 'zen4_kept_restv2_tiny': REST_V2},
        environment=KEPT,
    ),
    Study(
        "ResT's attention against the machine's floors",
        'Every size of attention of ResT-small at 800x1344, alone: the time to move its inputs, '
        'outputs and gradients once, at the speed of a large copy, and that of its matrix products '
        'at the speed of the fastest. Softmax is in neither.',
        {'floors_small': 'ResT:arch=small --impl auto reference'},
        tool=FLOORS,
    ),
    Study(
        'Growth with the image',
        'ResT-small in its own way, from 0.25 to 16 megapixels in inference and in training; '
        'ResFormer-base, global attention, in training. The training of ResT-small was measured '
        f'{EARLIER}. "work" is what a step added to the model '
        'and the libraries. The exponents are those of a straight line through the logarithms: 1 '
        'is linear in the pixels. Memory grows no faster than that; time must, since the number of '
        'keys grows with the number of queries. A single attention map of the first stage would '
        'take 69 GB at 4096x4096 (computed: 2^20 queries, 2^14 keys, 4 bytes), so that `reference` '
        'cannot be measured there.',
        {
            'growth_infer': 'ResT:arch=small --shapes 512x512 1024x1024 2048x2048 4096x4096 '
            '--mode infer --steps 1',
            'growth_train': 'ResT:arch=small --shapes 512x512 1024x1024 2048x2048 4096x4096 '
            '--mode train --steps 1',
            'growth_resformer': 'ResFormer:arch=base --shapes 512x512 768x768 1024x1024 '
            '--mode train --steps 1',
        },
        growth=True,
    ),
    Study(
        'On a GPU',
        'ResT-small and its peers at 800x1344.',
        {
            f'gpu_{dtype}_{batch}': _compared('ResT:arch=small', 20, f'--against {PEERS} ')
            + f' --device cuda --dtype {dtype} --batch-size {batch}'
            for dtype in ('bfloat16', 'float32')
            for batch in (1, 8)
        },
        device='cuda',
    ),
    Study(
        "ResT's attention against a GPU's floors",
        'As above on a processor.',
        {
            f'gpu_floors_{dtype}_{batch}': 'ResT:arch=small --impl auto blockwise reference '
            f'--device cuda --dtype {dtype} --batch-size {batch}'
            for dtype in ('bfloat16', 'float32')
            for batch in (1, 8)
        },
        tool=FLOORS,
        device='cuda',
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--measure', action='store_true', help='measure what has no file yet')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu', help='of --measure')
    parser.add_argument('--out', type=Path, default=DOCUMENT)
    args = parser.parse_args()
    with clear_errors():
        replace = args.out.resolve() == DOCUMENT
        require_new_file('--out', args.out, replace, 'only the document itself is replaced')
        for study in STUDIES if args.measure else ():
            for name, arguments in study.runs.items():
                if study.device == args.device and not (FOLDER / f'{name}.csv').exists():
                    measure(study, name, arguments)
        args.out.write_text(write())
        print(f'written to {args.out}')


def measure(study: Study, name: str, arguments: str) -> None:
    """Run the tool into a new file of that name, and perhaps a picture."""
    command = f'{arguments} --csv {FOLDER / name}.csv --force'
    command += f' --plot {FOLDER / name}.png' if study.growth else ''
    tool = [sys.executable, str(ROOT / study.tool)]
    environment = {**os.environ, **study.environment}
    if subprocess.run([*tool, *shlex.split(command)], env=environment).returncode:
        raise InputError(f'{name} could not be measured: see above')


def write() -> str:
    """The document."""
    parts = [(ROOT / 'docs/benchmarks/introduction.md').read_text().rstrip()]
    for study in STUDIES:
        parts.append(f'## {study.title}\n\n{study.text}')
        for name, arguments in study.runs.items():
            variables = ''.join(f'{key}={value} ' for key, value in study.environment.items())
            command = f'```bash\n{variables}python {study.tool} {arguments}\n```'
            file = FOLDER / f'{name}.csv'
            if not file.exists():
                parts.append(f'{command}\n\nNot measured yet.')
                continue
            with open(file, newline='') as opened:
                rows = list(csv.DictReader(opened))
            if study.tool == FLOORS:
                table = _all_columns(rows, before='peak GFLOP/s')
            else:
                table = growth_table(rows) if study.growth else comparison_table(rows)
            parts.append(f'{command}\n\n{table}\n\n{environment(rows[0])}')
            if study.growth:
                parts.append(f'![time and memory](benchmarks/{name}.png)')
    return '\n\n'.join(parts) + '\n'


def comparison_table(rows: list[dict[str, str]]) -> str:
    """Every row, with what is compared."""
    return _table(FEATURED, [[row[name] for name in FEATURED] for row in rows])


def _all_columns(rows: list[dict[str, str]], before: str) -> str:
    names = tuple(rows[0])[: list(rows[0]).index(before)]
    return _table(names, [[row[name] for name in names] for row in rows])


def growth_table(rows: list[dict[str, str]]) -> str:
    """Time and memory by megapixel, and the exponents that fit them."""
    lines = []
    for row in rows:
        pixels = _megapixels(row)
        per_pixel = float(row['work MB']) / pixels
        shown = [row['shape'], f'{pixels:.2f}', row['ms'], row['peak MB'], row['work MB']]
        lines.append([*shown, f'{per_pixel:.0f}'])
    table = _table(('image', 'megapixels', 'ms', 'peak MB', 'work MB', 'work MB / MP'), lines)
    time, memory = (_exponent(rows, column) for column in ('ms', 'work MB'))
    model, mode = rows[0]['model'], rows[0]['mode']
    return (
        f'{table}\n\n{model}, {mode}: time ~ pixels^{time:.2f}, work memory ~ pixels^{memory:.2f}.'
    )


def environment(row: dict[str, str]) -> str:
    """Where and when a file was measured."""
    steps = f' of {row["steps"]} steps after a warm-up' if 'steps' in row else ''
    copy = f', a copy {row["GB/s"]} GB/s' if 'GB/s' in row else ''
    return (
        f'Measured on {row["date"]}: {row["device"]}, {row["threads"]} threads, torch '
        f'{row["torch"]}, Python {row["python"]}, {row["dtype"]}, batch {row["batch"]}, '
        f'medians{steps}; matrix products reach {row["peak GFLOP/s"]} GFLOP/s{copy}.'
    )


def _exponent(rows: list[dict[str, str]], column: str) -> float:
    sizes = np.log([_megapixels(row) for row in rows])
    return np.polyfit(sizes, np.log([float(row[column]) for row in rows]), 1)[0]


def _megapixels(row: dict[str, str]) -> float:
    height, width = map(int, row['shape'].split('x'))
    return int(row['batch']) * height * width / 1e6


def _table(header: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


if __name__ == '__main__':
    main()
