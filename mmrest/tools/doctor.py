"""Is everything installed, and does it fit together? ``python -m mmrest doctor``.

Nothing of the stack is imported before it is examined. Ends with status 1 if something must be
mended.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mmrest.errors import ArgumentParser, clear_errors
from mmrest.stack import BrokenStackError, check_stack

PACKAGES = (
    ('torch',),
    ('onedl-mmengine', 'mmengine'),
    ('onedl-mmcv', 'mmcv'),
    ('onedl-mmdetection', 'mmdet'),
    ('onedl-mmsegmentation', 'mmsegmentation'),
    ('numpy',),
)
# Module -> what it is for.
OPTIONAL = {
    'matplotlib': 'pictures of sweeps and benchmarks',
    'onnx': 'python -m mmrest export',
    'onnxscript': 'python -m mmrest export',
    'onnxruntime': 'python -m mmrest export',
    'gdown': 'weights on Google Drive',
    'triton': 'MMREST_ATTENTION=triton on a GPU',
    'pycocotools': 'evaluation on COCO',
}
DATA = 'data/coco', 'data/ade/ADEChallengeData2016', 'data/cityscapes', 'data/VOCdevkit'


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        topic: Of what.
        status: ``'ok'``, ``'note'``, ``'warning'`` or ``'problem'``.
        text: What is so.
        mend: What to do about it, mostly a command.
    """

    topic: str
    status: str
    text: str
    mend: str = ''


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0].replace('`', ''))
    parser.add_argument('--json', action='store_true', help='as JSON')
    args = parser.parse_args()
    findings = list(examine())
    with clear_errors():
        if args.json:
            print(json.dumps([asdict(finding) for finding in findings], indent=1))
        else:
            print('\n'.join(line for finding in findings for line in _lines_of(finding)))
    problems = sum(finding.status == 'problem' for finding in findings)
    if problems:
        print(f'{problems} to be mended', file=sys.stderr)
        sys.exit(1)


def _lines_of(finding: Finding) -> Iterator[str]:
    yield f'{finding.status:8} {finding.topic}: {finding.text}'
    for line in finding.mend.splitlines():
        yield f'{"":8}   {line}'


def examine() -> Iterator[Finding]:
    """Every finding; what cannot be looked at because of another problem is left out."""
    yield Finding('python', 'ok', f'{platform.python_version()}, {platform.platform()}')
    for names in PACKAGES:
        yield from _versions(names)
    try:
        check_stack()
    except BrokenStackError as error:
        cause, _, mend = str(error).partition('\n')
        yield Finding('stack', 'problem', cause, mend)
        return
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _torch, _operators, _ranges, _opencv, _attention, _compiler, _optional, _data, _weights,
    )  # fmt: skip
    for check in checks:
        yield from check()


def _version(*names: str) -> str | None:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _versions(names: tuple[str, ...]) -> Iterator[Finding]:
    found = {name: _version(name) for name in names}
    text = ' and '.join(f'{name} {number}' for name, number in found.items() if number)
    # of mmdet and mmseg one is enough for the backbones
    status = 'ok' if text else 'note'
    yield Finding(names[-1], status, text or 'not installed')


def _torch() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        yield Finding(
            'GPU',
            'ok',
            f'{torch.cuda.get_device_name()}, capability {major}.{minor}, CUDA of torch '
            f'{torch.version.cuda}',
        )
    elif torch.version.cuda is None and shutil.which('nvidia-smi'):
        yield Finding(
            'GPU',
            'warning',
            f'there is an NVIDIA driver, and torch {torch.__version__} is built for processors',
            'pip install --force-reinstall torch    # from the index for your CUDA; then compile '
            'mmcv anew',
        )
    elif torch.version.cuda is not None:
        yield Finding(
            'GPU',
            'warning',
            f'torch is built for CUDA {torch.version.cuda} and sees no GPU',
            'nvidia-smi    # is there a driver, is it new enough, is CUDA_VISIBLE_DEVICES empty?',
        )
    else:
        yield Finding('GPU', 'note', 'none; everything runs on the processor')


def _operators() -> Iterator[Finding]:
    try:
        from mmcv.ops import get_compiling_cuda_version
    except ImportError as error:
        yield Finding('mmcv', 'note', f'without operators ({error}); the backbones need none')
        return
    import torch

    compiled = get_compiling_cuda_version()
    if torch.cuda.is_available() and compiled == 'not available':
        yield Finding(
            'mmcv',
            'problem',
            'its operators are compiled for processors alone, and torch has a GPU',
            'MMCV_WITH_OPS=1 FORCE_CUDA=1 pip install --no-build-isolation --no-cache-dir '
            '--force-reinstall --no-deps onedl-mmcv',
        )
    else:
        yield Finding('mmcv', 'ok', f'operators are compiled, CUDA {compiled}')


def _ranges() -> Iterator[Finding]:
    """What mmdet and mmseg assert of mmcv and mmengine when they are imported."""
    for module in ('mmdet', 'mmseg'):
        if importlib.util.find_spec(module) is None:
            continue
        try:
            importlib.import_module(module)
        except Exception as error:
            text = re.sub(r'\s+', ' ', str(error)).strip()
            mend = f'pip install --upgrade {module}    # or as the text says'
            if wanted := re.search(r'install (mm\w+)(>=[\w.]+, ?<=?[\w.]*\w)', text):
                name = 'onedl-mmcv' if _version('onedl-mmengine') else wanted[1]
                mend = f'pip install --no-build-isolation "{name}{wanted[2].replace(" ", "")}"'
            yield Finding(module, 'problem', f'cannot be imported: {text}', mend)
        else:
            yield Finding(module, 'ok', 'can be imported')


def _opencv() -> Iterator[Finding]:
    names = 'opencv-python', 'opencv-python-headless', 'opencv-contrib-python'
    installed = [name for name in names if _version(name)]
    if len({_version(name) for name in installed}) > 1:
        versions = ' and '.join(f'{name} {_version(name)}' for name in installed)
        yield Finding(
            'opencv',
            'warning',
            f'{versions} overwrite each other in the folder cv2/',
            f'pip uninstall -y {" ".join(installed)}; pip install {installed[0]}',
        )


def _attention() -> Iterator[Finding]:
    from mmrest.errors import InputError
    from mmrest.ops.dispatch import IMPLEMENTATIONS, VARIABLE, requested

    try:
        name = requested()
    except InputError as error:
        yield Finding(
            'attention',
            'problem',
            str(error),
            f'unset {VARIABLE}    # or one of {", ".join(IMPLEMENTATIONS)}',
        )
        return
    import torch

    chosen = "torch's fused attention" if torch.cuda.is_available() else 'blockwise on large maps'
    text = f'{name}: {chosen}' if name == 'auto' else name
    yield Finding('attention', 'ok', text)


def _compiler() -> Iterator[Finding]:
    compiler = os.environ.get('CXX') or 'g++'
    if shutil.which(compiler) or shutil.which('clang++'):
        yield Finding('compiler', 'ok', 'a C++ compiler is there')
    else:
        yield Finding(
            'compiler',
            'warning',
            'no C++ compiler; --compile and compiling mmcv need one',
            'apt install g++    # or what your system calls it',
        )


def _optional() -> Iterator[Finding]:
    for module, purpose in OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            yield Finding(module, 'note', f'not installed; for {purpose}', f'pip install {module}')


def _data() -> Iterator[Finding]:
    for folder in DATA:
        found = 'is here' if Path(folder).is_dir() else 'is not here; --data-root names another'
        yield Finding('data', 'ok' if Path(folder).is_dir() else 'note', f'{folder} {found}')


def _weights() -> Iterator[Finding]:
    from mmrest.checkpoints.published import local_file, published, weights_folder

    folder = weights_folder()
    here = sum(local_file(weights) is not None for weights in published().values())
    text = f"{here} of the authors' {len(published())} files are in {folder}"
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK):
        yield Finding('weights', 'ok', text)
    else:
        yield Finding(
            'weights',
            'problem',
            f'{text}, which cannot be written',
            'export MMREST_WEIGHTS=FOLDER    # one that you may write',
        )


if __name__ == '__main__':
    main()
