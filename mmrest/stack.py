"""Is the OpenMMLab stack usable? Asked at import, so that a broken one is named at once."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

# The two distributions with the same import names: (onedl's, the original).
_DISTRIBUTIONS = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
}
_MIN_TORCH = (2, 6)


def is_command() -> bool:
    """True in ``python -m mmrest ...``, ``mmrest ...`` and ``python tools/NAME.py`` of a clone."""
    program = [Path(argument) for argument in sys.orig_argv[1:3]]
    tools = Path(__file__).resolve().parents[1] / 'tools'
    return any(path.stem == 'mmrest' or path.resolve().parent == tools for path in program)


def is_asked_by_doctor() -> bool:
    """True in ``python -m mmrest doctor`` and ``mmrest doctor``."""
    given = sys.orig_argv
    asked = [before for before, argument in pairwise(given) if argument == 'doctor']
    return any(Path(before).stem == 'mmrest' for before in asked)


class BrokenStackError(ImportError):
    """The OpenMMLab stack is incomplete or mixed; the text names the command that mends it."""


def check_stack() -> None:
    """Check that torch, mmengine and mmcv can carry the backbones, mmdet and mmseg if installed.

    Raises:
        BrokenStackError: What is wrong, and the command that mends it.
    """
    for module, (maintained, original) in _DISTRIBUTIONS.items():
        if _version(maintained) and _version(original):
            raise BrokenStackError(
                f'both {maintained} and {original} are installed, and overwrite each other in '
                f'the folder {module}/. Keep one distribution:\n'
                f'  pip uninstall -y {maintained} {original}\n'
                f'  pip install --no-build-isolation --no-cache-dir {maintained}'
            )
    torch = _import('torch', '  pip install torch')
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) < _MIN_TORCH:
        raise BrokenStackError(
            f'mmrest needs torch >= 2.6 to read checkpoints safely, this is {torch.__version__}. '
            'Upgrade it, then compile mmcv against it again:\n'
            '  pip install --upgrade torch\n' + _compile_mmcv()
        )
    _import('mmengine', '  pip install onedl-mmengine')
    _import('mmcv', _compile_mmcv())
    if _version(*_DISTRIBUTIONS['mmdet']) or _version(*_DISTRIBUTIONS['mmseg']):
        try:
            importlib.import_module('mmcv._ext')
        except ImportError as error:
            raise BrokenStackError(
                f'mmcv has no compiled operators for torch {torch.__version__} ({error}); mmdet '
                'and mmseg need them. Compile it against the torch that is installed:\n'
                + _compile_mmcv()
            ) from error
    if _version('mmsegmentation') and (missing := [m for m in ('ftfy', 'regex') if not _finds(m)]):
        raise BrokenStackError(
            f'mmsegmentation imports {" and ".join(missing)} without requiring it:\n'
            f'  pip install {" ".join(missing)}'
        )


def _import(name: str, remedy: str) -> object:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if 'pkg_resources' in str(error):
            raise BrokenStackError(
                f'{name} {_version(*_DISTRIBUTIONS.get(name, (name,)))} needs pkg_resources, which '
                'setuptools has no more since version 81:\n  pip install "setuptools<81"'
            ) from error
        text = f'{name} cannot be imported ({error}). Mend it with\n{remedy}'
        raise BrokenStackError(text) from error


def _compile_mmcv() -> str:
    name = 'mmcv' if _version('mmengine') else 'onedl-mmcv'
    pin = '"mmcv<2.2"' if name == 'mmcv' else name
    return (
        '  pip install setuptools wheel ninja\n'
        f'  MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir --force-reinstall '
        f'--no-deps {pin}'
    )


def _version(*distributions: str) -> str | None:
    """Version of the first of these distributions that is installed."""
    for distribution in distributions:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None


def _finds(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
