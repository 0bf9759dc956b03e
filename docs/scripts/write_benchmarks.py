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
ABLATION = 'docs/scripts/ablation.py'
TIME = 'docs/scripts/where_time_goes.py'
FEATURED = (
    'model', 'impl', 'mode', 'ms', 'ms range', 'time / first', '% of peak', 'peak MB',
    'peak / first', 'work MB',
)  # fmt: skip
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
        given: A variable that whoever measures has to set.
    """

    title: str
    text: str
    runs: dict[str, str]
    tool: str = 'tools/benchmark.py'
    growth: bool = False
    device: str = 'cpu'
    environment: dict[str, str] = field(default_factory=dict)
    given: str = ''


def _compared(model: str, steps: int, more: str = '', shape: str = '800x1344') -> str:
    return (
        f'{model} --impl auto reference {more}--shapes {shape} --mode infer train --steps {steps}'
    )


# of glibc's malloc, which then keeps what is freed
KEPT = {'MALLOC_TRIM_THRESHOLD_': '8000000000', 'MALLOC_MMAP_THRESHOLD_': '8000000000'}
REST = _compared('ResT:arch=small', 5, f'--against {PEERS} ')
REST_V2 = _compared('ResTV2:arch=tiny', 5)
RESFORMER = _compared('ResFormer:arch=small', 5, shape='1024x1024')


MVIT = 'MViTV2:arch=tiny'
MVIT_AND_PEERS = (
    f'{MVIT} ResT:arch=small --impl auto reference --against mmdet.SwinTransformer '
    '--shapes 800x1344 --mode infer train --steps 5'
)
# in two runs: all rows of a run are in memory at once
MVIT_POSITIONS = ' '.join(
    f'{MVIT},positions={kind}' for kind in ('none', 'absolute', 'joint', 'absolute_and_decomposed')
)
MVIT_POOLING = ' '.join(
    f'{MVIT},{change}'
    for change in (
        'attention=windows',
        'residual_pooling=False,pool_every_q=False',
        'pool_every_q=False',
        'residual_pooling=False',
    )
)
SVT_OF_MMSEG = (
    'mmseg.SVT:embed_dims=[64,128,256,512],num_heads=[2,4,8,16],depths=[2,2,10,4],'
    'mlp_ratios=[4,4,4,4],windiow_sizes=[7,7,7,7],sr_ratios=[8,4,2,1],'
    'norm_after_stage=[True,True,True,True],qkv_bias=True'
)
PCPVT_OF_MMSEG = (
    'mmseg.PCPVT:embed_dims=[64,128,320,512],num_heads=[1,2,5,8],depths=[3,4,6,3],'
    'mlp_ratios=[8,8,4,4],sr_ratios=[8,4,2,1],qkv_bias=True'
)


def _against(model: str, peer: str) -> str:
    return f'{model} --against {peer} --shapes 800x1344 --mode infer train --steps 5'


STUDIES = (
    Study(
        'ResT against the literal form and other backbones',
        'One image of 800x1344. `reference` is the paper literally, with every attention map '
        "stored and torch's own linear layers. The peers are mmdet's.",
        {
            'rest_small': REST,
            'rest_base': _compared('ResT:arch=base', 5),
            'rest_large': _compared('ResT:arch=large', 5),
            'rest_small_more_peers': f'ResT:arch=small --against {MORE_PEERS} --shapes 800x1344 '
            '--mode infer train --steps 5',
        },
    ),
    Study(
        "Against the authors' own code",
        "The authors' files for detection (ResT, P2T) or segmentation (CSWin, GPViT), on today's "
        'torch. They are no part of this project: `docs/scripts/authors_code.py` says how to get '
        'them and names what they are given. Measured without their comments and what is not run.',
        {
            f'{variant}_authors': _against(model, f'authors_code.{theirs}')
            for variant, model, theirs in (
                ('rest_small', 'ResT:arch=small', 'rest:arch=small'),
                ('p2t_small', 'P2T:arch=small', 'p2t:arch=small'),
                ('cswin_tiny', 'CSWin:arch=tiny', 'cswin:arch=tiny'),
                ('gpvit_l1', 'GPViT:arch=l1', 'gpvit:arch=L1'),
            )
        },
        environment={'PYTHONPATH': 'docs/scripts'},
        given='AUTHORS_CODE',
    ),
    Study(
        'What each trick is worth',
        'Every trick of the package switched off alone, inference at 800x1344, training at '
        '640x800. "times" is the median over pairs of steps; what is within 5 % and 40 MB is not '
        'known to be worth anything. Processes that were started later were some per cent faster '
        'here, whatever they ran: "nothing" is the mean of two, the first and the last, in the '
        'tables of MViTv2 and PVTv2, and the first alone in the others, which are older. '
        '"weights\' gradients as convolutions" acts on processors alone where MKL is slow, which '
        'none of these is: its rows show how far apart two equal processes were. '
        '`--constants` tries the sizes of blocks and chunks instead.',
        {
            'ablation': '--models ResT:arch=small ResTV2:arch=tiny --steps 5',
            'ablation_mvitv2_tiny': '--models MViTV2:arch=tiny --steps 5',
            'ablation_pvtv2_b1': '--models PVTV2:arch=b1 --mode infer --steps 6',
        },
        tool=ABLATION,
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
        'MViTv2 and what its paper ablates',
        'MViTv2-tiny at 800x1344 in windows as in detection, beside Swin-tiny and ResT-small, on a '
        'processor with AVX-512 and on one without, where products take a larger share; with '
        "attention to the whole map everywhere; and each of the paper's ablations, whose box AP is "
        'in [mvitv2.md](mvitv2.md).',
        {
            'mvitv2_tiny': MVIT_AND_PEERS,
            'mvitv2_tiny_avx2': MVIT_AND_PEERS,
            'mvitv2_pooling': f'{MVIT},attention=pooling --impl auto reference --shapes 800x1344 '
            '--mode infer --steps 5',
            **{
                f'mvitv2_ablated_{ablated}': f'{MVIT} {changed} --shapes 800x1344 '
                '--mode infer train --steps 5'
                for ablated, changed in (('positions', MVIT_POSITIONS), ('pooling', MVIT_POOLING))
            },
        },
    ),
    Study(
        "What MViTv2's training spends its time on",
        'A training step of MViTv2-tiny at 800x1344 in a profile, by kinds of operators. The fast '
        'form computes some of the products once more, to keep less memory. These are no floors: '
        'where things are in the cache, the same operators take less time.',
        {'time_mvitv2_tiny': 'MViTV2:arch=tiny --impl auto reference --mode train --steps 5'},
        tool=TIME,
    ),
    Study(
        "The pyramid families against mmdet's and mmseg's classes",
        'One image of 800x1344; P2T, CSWin and GPViT, which neither has, against the literal form '
        "(and above against their authors' code). "
        'Short single-threaded work ran beside those of Twins and CSWin, which their ranges '
        'show; times are medians, and models take their steps in turn.',
        {
            'pvt_small': _against(
                'PVT:arch=small', 'mmdet.PyramidVisionTransformer:num_layers=[3,4,6,3]'
            ),
            'pvtv2_b2': _against(
                'PVTV2:arch=b2',
                'mmdet.PyramidVisionTransformerV2:embed_dims=64,num_layers=[3,4,6,3]',
            ),
            'swin_tiny': _against('Swin:arch=tiny', 'mmdet.SwinTransformer'),
            'twins_svt_small': _against('TwinsSVT:arch=small', SVT_OF_MMSEG),
            'twins_pcpvt_small': _against('TwinsPCPVT:arch=small', PCPVT_OF_MMSEG),
            'p2t_small': _compared('P2T:arch=small', 5),
            'cswin_tiny': _compared('CSWin:arch=tiny', 5),
            'gpvit_l1': _compared('GPViT:arch=l1', 5),
        },
    ),
    Study(
        'The same where memory is kept',
        'With glibc told to keep what is freed; otherwise it returns large maps to the system, '
        'which has to map and clear them again for the next layer. What uses more memory gains '
        'most by it.',
        {'kept_rest_small': REST},
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
        'ResT-small, from 0.25 megapixels on. "work" is what a step added to the model and the '
        'libraries. The exponents are those of a straight line through the logarithms: 1 is '
        'linear in the pixels. Memory grows no faster than that; time must, since the number of '
        'keys grows with the number of queries. A single attention map of the first stage would '
        'take 4.3 GB at 2048x2048 (computed: 2^18 queries, 2^12 keys, 4 bytes).',
        {
            'growth_infer': 'ResT:arch=small --shapes 512x512 1024x1024 2048x2048 --mode infer',
            'growth_train': 'ResT:arch=small --shapes 512x512 1024x1024 2048x2048 --mode train',
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
                if study.device != args.device or (FOLDER / f'{name}.csv').exists():
                    continue
                if study.given and study.given not in os.environ:
                    print(f'{name} is left out: {study.given} is not set')
                    continue
                measure(study, name, arguments)
        args.out.write_text(write())
        print(f'written to {args.out}')


def measure(study: Study, name: str, arguments: str) -> None:
    """Run the tool into a new file of that name, and perhaps a picture."""
    command = f'{arguments} --csv {FOLDER / name}.csv --force'
    command += f' --plot {FOLDER / name}.png' if study.growth else ''
    tool = [sys.executable, str(ROOT / study.tool)]
    environment = {**os.environ, **study.environment}
    if subprocess.run([*tool, *shlex.split(command)], env=environment, cwd=ROOT).returncode:
        raise InputError(f'{name} could not be measured: see above')


def write() -> str:
    """The document."""
    parts = [(ROOT / 'docs/benchmarks/introduction.md').read_text().rstrip()]
    for study in STUDIES:
        parts.append(f'## {study.title}\n\n{study.text}')
        for name, arguments in study.runs.items():
            variables = {study.given: 'FOLDER'} if study.given else {}
            variables = ''.join(f'{k}={v} ' for k, v in {**variables, **study.environment}.items())
            command = f'```bash\n{variables}python {study.tool} {arguments}\n```'
            file = FOLDER / f'{name}.csv'
            if not file.exists():
                parts.append(f'{command}\n\nNot measured yet.')
                continue
            with open(file, newline='') as opened:
                rows = list(csv.DictReader(opened))
            if study.tool in (FLOORS, ABLATION, TIME):
                before = 'peak GFLOP/s' if study.tool == FLOORS else 'date'
                table = _all_columns(rows, before)
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
    """Where, when and of which commit a file was measured."""
    facts = [f'{row["device"]}, {row["threads"]} threads', f'torch {row["torch"]}']
    facts += [f'Python {row["python"]}', row.get('dtype', 'float32')]
    facts += [f'batch {row.get("batch", "1")}']
    if 'steps' in row:
        facts.append(f'medians of {row["steps"]} steps after a warm-up')
    text = f'Measured on {row["date"]} of commit {row["commit"]}: {", ".join(facts)}'
    if 'peak GFLOP/s' in row:
        text += f'; matrix products reach {row["peak GFLOP/s"]} GFLOP/s'
    return text + (f', a copy {row["GB/s"]} GB/s.' if 'GB/s' in row else '.')


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
