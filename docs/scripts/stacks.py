"""Try mmrest in fresh environments: other packages, Pythons and versions of torch.

``python docs/scripts/stacks.py mmdet mmseg --python python3.12 --torch 2.13.0`` makes an
environment for each stack, runs what it can carry, and enters a row into
docs/reliability/stacks.csv, from which ``write_reliability.py`` makes a table.
"""

import argparse
import csv
import datetime
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from mmrest.benchmark.machine import find_commit
from mmrest.errors import InputError, clear_errors

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / 'docs/reliability/stacks.csv'
DETECTOR, SEGMENTOR = 'retinanet_rest_lite_shapes', 'upernet_rest_lite_shapes'


@dataclass(frozen=True)
class Stack:
    """An environment.

    Attributes:
        packages: Beside torch and mmcv.
        mmcv: Its distribution; all but mmcv-lite compile operators, which takes minutes.
        configs: What is trained, tested and predicts.
        constraints: The file of versions.
        suite: The whole suite can be run, by ``--suite``.
    """

    packages: tuple[str, ...]
    mmcv: str = 'onedl-mmcv'
    configs: tuple[str, ...] = ()
    constraints: str = 'constraints/onedl.txt'
    suite: bool = False


_DET, _SEG = 'onedl-mmdetection', 'onedl-mmsegmentation'
STACKS = {
    'both': Stack((_DET, _SEG), configs=(DETECTOR, SEGMENTOR), suite=True),
    'mmdet': Stack((_DET,), configs=(DETECTOR,)),
    'mmseg': Stack((_SEG,), configs=(SEGMENTOR,)),
    'backbones': Stack((), mmcv='mmcv-lite'),
    'openmmlab': Stack(
        ('mmdet', 'mmsegmentation', 'ftfy', 'regex', 'setuptools<81'),
        mmcv='mmcv',
        configs=(DETECTOR, SEGMENTOR),
        constraints='constraints/openmmlab.txt',
        suite=True,
    ),
}
# of every family, where neither mmdet nor mmseg is needed
BACKBONES = [
    'tests/backbones/test_pyramid.py',
    'tests/backbones/test_copies.py',
    'tests/backbones/test_implementations.py',
]
_WITHOUT_LIBRARIES = 'not registered_in_every_scope'


@dataclass
class Row:
    """A row of the table."""

    stack: str
    python: str
    torch: str
    packages: str
    tests: str
    commands: str
    commit: str = field(default_factory=find_commit)
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('stacks', nargs='+', choices=list(STACKS))
    parser.add_argument('--python', default=sys.executable, help='interpreter of the environment')
    parser.add_argument('--torch', default='2.13.0', help='version')
    parser.add_argument('--suite', action='store_true', help='run the whole fast suite, too')
    parser.add_argument('--keep', type=Path, help='folder that keeps the environments')
    args = parser.parse_args()
    with clear_errors(), tempfile.TemporaryDirectory() as folder:
        for name in args.stacks:
            place = (args.keep or Path(folder)).absolute() / f'{name}-{args.torch}'
            row = attempt(name, args.python, args.torch, place, args.suite)
            print(row, flush=True)
            enter(row)


def attempt(name: str, python: str, torch: str, place: Path, whole: bool) -> Row:
    """Make an environment and run in it what it can carry."""
    stack = STACKS[name]
    run([python, '-m', 'venv', place / 'venv'])
    inside = place / 'venv/bin/python'
    pip = [inside, '-m', 'pip', 'install', '--quiet']
    if torch == '2.13.0' and is_pinned_python(inside):
        pip += ['--constraint', ROOT / stack.constraints]
    run([*pip, f'torch=={torch}', 'numpy', 'setuptools', 'wheel', 'ninja'])
    run(['env', 'MMCV_WITH_OPS=1', *pip, '--no-build-isolation', stack.mmcv])
    whole = whole and stack.suite
    project = f'{ROOT}[dev]' if whole else ROOT
    run([*pip, *stack.packages, 'pytest', 'pytest-xdist', 'hypothesis', '--editable', project])
    tests = ['tests'] if whole else [*BACKBONES, '-k', _WITHOUT_LIBRARIES]
    tests += ['-n', '2', '-m', 'not slow and not accept', '-p', 'no:cacheprovider']
    output = run([inside, '-m', 'pytest', *tests])
    ran = [command for config in stack.configs for command in commands(inside, config, place)]
    return Row(
        name,
        run([inside, '-c', 'import sys; print(sys.version.split()[0])']).strip(),
        run([inside, '-c', 'import torch; print(torch.__version__)']).strip().splitlines()[-1],
        versions(inside),
        re.findall(r'^.*(?:passed|failed).* in .*$', output, re.MULTILINE)[-1],
        ', '.join(ran) or 'none',
    )


def is_pinned_python(python: Path) -> bool:
    """Whether the versions in ``constraints/`` are for this Python."""
    return run([python, '-c', 'import sys; print(sys.version_info[:2])']).strip() == '(3, 11)'


def commands(python: Path, config: str, place: Path) -> list[str]:
    """Train, test and predict as a user does; the names of what was run.

    Raises:
        InputError: One fails.
    """
    place = Path(tempfile.mkdtemp(dir=place))
    work, data = place / 'work', place / 'data'
    common = ['--data-root', data, '--work-dir', work, '--cfg-options']
    common += ['built_in_data.num_train=12', 'built_in_data.num_val=4']
    short = ['train_cfg.max_epochs=1', 'default_hooks.checkpoint.interval=1']
    if config == SEGMENTOR:
        short = ['train_cfg.max_iters=2', 'default_hooks.checkpoint.interval=2']
    mmrest = [python, '-m', 'mmrest']
    run([*mmrest, 'train', config, *common, *short, 'train_cfg.val_interval=1'], cwd=place)
    (checkpoint,) = (*work.glob('epoch_1.pth'), *work.glob('iter_2.pth'))
    run([*mmrest, 'test', config, checkpoint, *common], cwd=place)
    image = next(iter((data / 'val2017').glob('*.jpg')))
    run([*mmrest, 'predict', config, checkpoint, image, '--out-dir', place / 'drawn'], cwd=place)
    return [f'{what} {config}' for what in ('train', 'test', 'predict')]


def versions(python: Path) -> str:
    wanted = 'mmengine', 'mmcv', 'mmcv-lite', 'mmdet', 'mmsegmentation', 'numpy', 'opencv-python'
    lines = run([python, '-m', 'pip', 'list', '--format=freeze']).splitlines()
    known = {f'onedl-{name}' for name in (*wanted, 'mmdetection')} | {*wanted}
    return ', '.join(line for line in lines if line.partition('==')[0] in known)


def run(command: list, cwd: Path = ROOT) -> str:
    """What a command prints.

    Raises:
        InputError: It fails.
    """
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise InputError(
            f'{" ".join(map(str, command))}\n{(result.stdout + result.stderr)[-4000:]}'
        )
    return result.stdout + result.stderr


def enter(row: Row) -> None:
    """Put a row into the table, in place of the one for the same environment."""
    rows = []
    if TABLE.exists():
        with open(TABLE, newline='') as file:
            rows = list(csv.DictReader(file))
    key = 'stack', 'python', 'torch'
    new = vars(row)
    rows = [old for old in rows if any(old[name] != new[name] for name in key)] + [new]
    with open(TABLE, 'w', newline='') as file:
        writer = csv.DictWriter(file, list(new), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


if __name__ == '__main__':
    main()
