"""Scripts in processes that begin with the libraries loaded, which takes most of a short run.

A server process loads them once, and the package, and is forked for every script.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(
    [
        *('mmcv.ops', 'mmdet.apis', 'mmseg.apis', 'mmengine.runner', 'mmrest.multires.commands'),
        *('torch._dynamo', 'tests.config_text'),
    ]
)
# read when the package is loaded
_READ_ONCE = ('MMREST_ATTENTION',)


def run_script(
    command: Sequence[str], cwd: str | os.PathLike, env: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess:
    """As ``subprocess.run`` with captured text, of ``[SCRIPT, *ARGUMENTS]``.

    Raises:
        TimeoutExpired: It took longer than ``timeout`` seconds; it is killed then.
    """
    if any(env.get(name) for name in _READ_ONCE):
        return subprocess.run(
            [sys.executable, *command],
            cwd=cwd,
            env=env,
            timeout=timeout,
            capture_output=True,
            text=True,
        )
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ('stdout', 'stderr')]
        process = CONTEXT.Process(target=_run, args=(list(command), str(cwd), dict(env), outputs))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout)
        texts = [path.read_text(errors='replace') for path in outputs]
    return subprocess.CompletedProcess(command, process.exitcode, *texts)


def _run(command: list[str], cwd: str, env: dict[str, str], outputs: list[Path]) -> None:
    # what was loaded before needs no look at every collection of the run
    gc.freeze()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout = os.fdopen(1, 'w', buffering=1)
    sys.stderr = os.fdopen(2, 'w', buffering=1)
    sys.argv = command
    sys.path[0] = str(Path(command[0]).parent)
    status = 0
    try:
        runpy.run_path(command[0], run_name='__main__')
    except SystemExit as stop:
        status = stop.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
        status = status if isinstance(status, int) else int(status is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
