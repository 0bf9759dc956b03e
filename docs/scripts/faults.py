"""Make each fault that a user meets, run the command line, and keep what it says.

``python docs/scripts/faults.py`` writes docs/reliability/faults.csv, from which
``write_reliability.py`` makes the table of docs/reliability.md. A message that is not the expected
one ends it. ``--only WORDS`` tries some. A full disk is mounted, for which one has to be root.
"""

import argparse
import csv
import datetime
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import fault_list  # noqa: F401  (fills the table)
import torch
from fault_trial import FAULTS, Fault, Trial

from mmrest.benchmark.machine import find_commit
from mmrest.commands.output_files import require_new_file
from mmrest.datasets import write_shapes
from mmrest.errors import InputError, clear_errors

ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--only', nargs='+', default=[], help='faults whose name has these words')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs/reliability/faults.csv')
    parser.add_argument('--force', action='store_true', help='replace --out')
    args = parser.parse_args()
    with clear_errors():
        replace = args.force or bool(args.only)
        require_new_file('--out', args.out, replace, '--force replaces it')
        chosen = [fault for fault in FAULTS if all(word in fault.name for word in args.only)]
        if not chosen:
            raise InputError(f'no fault has the words {" ".join(args.only)} in its name')
        rows, wrong = [], []
        with tempfile.TemporaryDirectory() as folder:
            shapes = write_shapes(Path(folder, 'shapes'), num_train=12, num_val=4)
            for number, fault in enumerate(chosen):
                row, text = attempt(fault, shapes, Path(folder, str(number)))
                print(f'{fault.name}: {row["exit status"]}: {row["message"]}', flush=True)
                if row['exit status'] != fault.status or not row['message']:
                    wrong.append(fault.name)
                    print(f'    EXPECTED {fault.status}: {fault.says}\n{text[-3000:]}', flush=True)
                rows.append(row)
        if wrong:
            raise InputError(f'not as expected: {", ".join(wrong)}')
        enter(rows, args.out, keep=bool(args.only))
        print(f'{len(rows)} faults, all as expected; written to {args.out}')


def enter(rows: list[dict], out: Path, keep: bool) -> None:
    """Put rows into the file, in the order of the list; ``keep`` those that were not tried."""
    known = {row['fault']: row for row in rows}
    if keep and out.exists():
        with open(out, newline='') as file:
            known = {row['fault']: row for row in csv.DictReader(file)} | known
    with open(out, 'w', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(known[fault.name] for fault in FAULTS if fault.name in known)


def attempt(fault: Fault, shapes: Path, folder: Path) -> tuple[dict[str, object], str]:
    """Run one fault's command; its row, and all that it printed."""
    folder.mkdir()
    trial = Trial(Path(shutil.copytree(shapes, folder / 'data')), folder / 'work')
    try:
        command = fault.make(trial)
        text, status = run(command, folder, trial.during)
    finally:
        for process in trial.started:
            process.kill()
            process.wait()
        if os.path.ismount(trial.work):
            subprocess.run(['umount', trial.work], check=True)
    found = re.search(fault.says, text, re.DOTALL)
    # torchrun shows one of its own
    clean = command[0] == 'torchrun' or 'Traceback (most recent call last)' not in text
    message = found.group(0).replace(f'{folder}/', '').replace(f'{ROOT}/', '') if found else ''
    row = {
        'fault': fault.name,
        'command': shlex.join(map(str, command)).replace(f'{folder}/', ''),
        'exit status': status,
        'message': ' '.join(message.split()) if clean else '',
        'commit': find_commit(),
        'date': datetime.date.today().isoformat(),
        'torch': torch.__version__,
    }
    return row, text


def run(
    command: list[str | Path], folder: Path, during: Callable[[subprocess.Popen], None] | None
) -> tuple[str, int]:
    """What a command of ``python -m mmrest`` prints, and its exit status."""
    launch = [sys.executable, '-m', 'mmrest']
    if command[0] == 'torchrun':
        launch = [sys.executable, '-m', 'torch.distributed.run']
    log = folder / 'log'
    environment = {
        **os.environ,
        'OMP_NUM_THREADS': '1',
        'CUDA_VISIBLE_DEVICES': '',
        'PYTHONPATH': str(ROOT),
        'MMREST_WEIGHTS': str(folder / 'weights'),
    }
    with open(log, 'w') as file:
        process = subprocess.Popen(
            [*launch, *command[command[0] == 'torchrun' :]],
            stdout=file,
            stderr=file,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
    try:
        if during:
            during(process)
        status = process.wait(_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return log.read_text(errors='replace'), status


if __name__ == '__main__':
    main()
