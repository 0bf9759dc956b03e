"""Kill trainings at random moments and resume them: are the losses those of a training left alone?

``python docs/scripts/kill_and_resume.py`` writes docs/reliability/kills.csv, a line a kill.
A checkpoint follows every second step, and each second kill waits until one is being written.
"""

import argparse
import csv
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from mmrest.benchmark.machine import find_commit
from mmrest.commands.output_files import require_new_file
from mmrest.errors import InputError, clear_errors

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    'epochs': 'configs/retinanet_rest_lite_shapes.py',
    'iterations': 'configs/upernet_rest_lite_shapes.py',
}
OPTIONS = {
    'epochs': ['train_cfg.max_epochs=3', 'train_cfg.val_interval=2'],
    'iterations': ['train_cfg.max_iters=18', 'train_cfg.val_interval=12'],
}
COMMON = [
    'built_in_data.num_train=24',
    'built_in_data.num_val=4',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.by_epoch=False',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.checkpoint.max_keep_ckpts=2',
    'default_hooks.checkpoint.save_best=None',
    'randomness.seed=1',
]
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=30)
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    parser.add_argument('--loop', choices=list(CONFIGS), nargs='+', default=list(CONFIGS))
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/reliability/kills.csv')
    parser.add_argument('--force', action='store_true', help='replace --out')
    args = parser.parse_args()
    with clear_errors():
        args.out.parent.mkdir(parents=True, exist_ok=True)
        require_new_file('--out', args.out, args.force, '--force replaces it')
        moments = random.Random(args.seed)
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            for loop in args.loop:
                whole = Path(folder, loop)
                finish(start(loop, whole, Path(folder)), whole)
                expected = losses_of(whole)
                while sum(row['loop'] == loop for row in rows) < args.kills / len(args.loop):
                    rows += kill_until_done(loop, Path(folder), moments, expected)
        with open(args.out, 'w', newline='') as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
            writer.writeheader()
            writer.writerows(rows)
        print(f'{len(rows)} kills, all recovered with equal losses; written to {args.out}')


def kill_until_done(
    loop: str, folder: Path, moments: random.Random, expected: dict[int, float]
) -> list[dict]:
    """One training, killed and resumed until it has run to its end.

    Raises:
        InputError: It could not be resumed, or a loss differs.
    """
    work_dir = Path(tempfile.mkdtemp(dir=folder))
    rows = []
    while True:
        process = start(loop, work_dir, folder, '--resume')
        number = moments.choice(_SIGNALS)
        while_writing = moments.random() < 0.5
        wait = moments.uniform(0, 8)
        if not _reach_moment(process, work_dir, wait, while_writing):
            finish(process, work_dir)
            break
        process.send_signal(number)
        process.wait()
        losses = losses_of(work_dir)
        rows.append(
            {
                'loop': loop,
                'signal': signal.Signals(number).name,
                'while writing': while_writing,
                'seconds': f'{wait:.1f}',
                'after iteration': max(losses, default=0),
                'half-written files': len(list(work_dir.glob('*.writing'))),
                'commit': find_commit(),
                'date': datetime.date.today().isoformat(),
                'torch': torch.__version__,
            }
        )
        print(rows[-1], flush=True)
    losses = losses_of(work_dir)
    if losses != expected:
        steps = [step for step in expected if losses.get(step) != expected[step]]
        raise InputError(f'the losses of steps {steps} differ after {rows}; see {work_dir}')
    return rows


def start(loop: str, work_dir: Path, data: Path, *arguments: str) -> subprocess.Popen:
    """A training in a process."""
    command = [sys.executable, str(ROOT / 'tools/train.py'), str(ROOT / CONFIGS[loop])]
    command += ['--work-dir', str(work_dir), '--data-root', str(data / f'data_{loop}')]
    command += [*arguments, '--cfg-options', *COMMON, *OPTIONS[loop]]
    with open(f'{work_dir}.log', 'w') as log:
        environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def finish(process: subprocess.Popen, work_dir: Path) -> None:
    """Wait for a training.

    Raises:
        InputError: It failed.
    """
    if status := process.wait():
        output = Path(f'{work_dir}.log').read_text()
        raise InputError(f'a training ended with status {status}:\n{output[-3000:]}')


def _reach_moment(
    process: subprocess.Popen, work_dir: Path, wait: float, while_writing: bool
) -> bool:
    """Wait until it is to be killed; False if it ended before."""
    logs = set(work_dir.glob('*/vis_data/scalars.json'))
    while not set(work_dir.glob('*/vis_data/scalars.json')) - logs:  # it does not train yet
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    until = time.monotonic() + wait
    while time.monotonic() < until or (while_writing and not list(work_dir.glob('*.writing'))):
        if process.poll() is not None:
            return False
        time.sleep(0.0005)
    return True


def losses_of(work_dir: Path) -> dict[int, float]:
    """Iteration -> loss; what is done twice must be the same twice.

    Raises:
        InputError: It is not.
    """
    losses = {}
    for log in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in log.read_text().splitlines():
            if not line.endswith('}') or 'loss' not in (entry := json.loads(line)):
                continue
            step, loss = entry['step'], entry['loss']
            if losses.setdefault(step, loss) != loss:
                raise InputError(f'{log}: step {step} has loss {loss}, not {losses[step]}')
    return losses


if __name__ == '__main__':
    main()
