"""What faults.py tries: where a fault is made, and the table that fault_list.py fills."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DETECTOR = 'retinanet_rest_lite_shapes'
MASKS = 'mask_rcnn_rest_lite_shapes'
SEGMENTOR = 'upernet_rest_lite_shapes'
_SHORT = ['built_in_data=None', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=2']
_SHORT_ITERS = ['built_in_data=None', 'train_cfg.max_iters=2', 'train_cfg.val_interval=9']
_LONG = ['built_in_data=None', 'train_cfg.max_epochs=500', 'train_cfg.val_interval=500']
FINE = r'Epoch\(train\)\s+\[1\]\[3/3\].*?loss: [\d.]+'


class Trial:
    """Where a fault is made.

    Attributes:
        data: A copy of the built-in data set.
        work: The work directory.
        during: What happens while the command runs, if anything does.
    """

    def __init__(self, data: Path, work: Path) -> None:
        self.data, self.work = data, work
        self.during: Callable[[subprocess.Popen], None] | None = None
        self.images = sorted((data / 'train2017').glob('*.jpg'))
        self.started: list[subprocess.Popen] = []

    def start(self, command: list[str | Path]) -> subprocess.Popen:
        """Start a command before that of the fault."""
        run = [sys.executable, '-m', 'mmrest', *command]
        silent = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.started.append(subprocess.Popen(run, cwd=self.data.parent, **silent))
        return self.started[-1]

    def train(
        self, *options: str, config: str = DETECTOR, more: tuple[str, ...] = ()
    ) -> list[str | Path]:
        """A short training; ``options`` are of ``--cfg-options``."""
        short = _SHORT_ITERS if config == SEGMENTOR else _SHORT
        places = ['--data-root', self.data, '--work-dir', self.work]
        return ['train', config, *places, *more, '--cfg-options', *short, *options]

    def train_long(self, *more: str) -> list[str | Path]:
        """One that ends by what happens during it; a checkpoint follows every iteration."""
        saves = ['default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=1']
        command = self.train(*_LONG, *saves, 'default_hooks.checkpoint.max_keep_ckpts=2')
        return [*command[:2], *more, *command[2:]]

    def after_a_checkpoint(self, action: Callable[[subprocess.Popen], object]) -> None:
        """Do something when the training has saved its second checkpoint."""

        def wait(process: subprocess.Popen) -> None:
            while process.poll() is None and not list(self.work.glob('iter_[2-9].pth')):
                time.sleep(0.05)
            action(process)

        self.during = wait

    def change(self, edit: Callable[[dict], object], split: str = 'train') -> None:
        """Edit the annotations of a split."""
        file = self.data / f'annotations/instances_{split}2017.json'
        content = json.loads(file.read_text())
        edit(content)
        file.write_text(json.dumps(content))


@dataclass(frozen=True)
class Fault:
    """One row: its name, how it is made, and the message and exit status that are expected."""

    name: str
    make: Callable[[Trial], list[str | Path]]
    says: str
    status: int


FAULTS: list[Fault] = []


def fault(name: str, says: str, status: int = 1) -> Callable:
    """Add a row; ``says`` is a regular expression, and what it matches is quoted."""

    def add(make: Callable[[Trial], list[str | Path]]) -> Callable:
        FAULTS.append(Fault(name, make, says, status))
        return make

    return add
