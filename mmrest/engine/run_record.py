"""What a run's log does not say: the command, and the config as its author wrote it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

FILE = 'run.json'


class RecordRunHook(Hook):
    """Writes the command and the config's own text beside the run's log.

    mmengine dumps configs without their bases, from which nobody sees what was changed.
    """

    @master_only
    def before_run(self, runner: Runner) -> None:
        """Called by the runner before the first epoch."""
        config = runner.cfg.filename
        has_file = bool(config) and Path(config).is_file()
        record = dict(
            command=shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
            config=config if has_file else None,
            source=Path(config).read_text(encoding='utf-8') if has_file else '',
        )
        Path(runner.log_dir, FILE).write_text(json.dumps(record, indent=1), encoding='utf-8')
