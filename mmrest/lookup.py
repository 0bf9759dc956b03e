"""The configs that come with the package, by their names.

``_base_ = 'mmrest::NAME'`` is understood once mmrest is imported, as it is in its own commands. A
config that other people's commands read can say the same without an import before:
``_base_ = __import__('mmrest').config_path('NAME')``.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from mmengine.config import Config

from mmrest.errors import InputError

# where OpenMMLab's packages keep theirs
CONFIGS = Path(__file__).parent / '.mim/configs'
_PREFIX = 'mmrest::'


def config_names() -> list[str]:
    """Names of all configs."""
    return sorted(path.stem for path in CONFIGS.glob('*.py'))


def config_path(name: str) -> str:
    """File of a config.

    Args:
        name: For example ``retinanet_rest_small_coco``; ``mmrest::`` in front and ``.py`` behind
            may be there.

    Raises:
        InputError: There is none of that name; the message names those that are like it.
    """
    path = CONFIGS / f'{name.removeprefix(_PREFIX).removesuffix(".py")}.py'
    if not path.is_file():
        close = difflib.get_close_matches(path.stem, config_names())
        hint = '`python -m mmrest list` has all'
        if Path(name).is_file():
            hint = f'mmengine.Config.fromfile({name!r}) reads the file'
        elif close:
            hint = f'did you mean {" or ".join(close)}?'
        raise InputError(f'mmrest has no config {path.stem}; {hint}')
    return str(path)


def get_config(name: str) -> Config:
    """A config of the package, read; as ``mmengine.hub.get_config`` for other packages.

    Args:
        name: See :func:`config_path`.

    Raises:
        InputError: There is none of that name.
    """
    return Config.fromfile(config_path(name))


def understand_names_in_bases() -> None:
    """Let mmengine find ``_base_ = 'mmrest::NAME'``.

    Its own lookup takes names of a fixed list of packages, in folders. What it finds there is in
    that package's scope; our configs name theirs themselves.
    """
    theirs = Config._get_cfg_path
    if getattr(theirs, 'knows_mmrest', False):
        return

    def find(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if cfg_path.startswith(_PREFIX):
            return config_path(cfg_path), None
        return theirs(cfg_path, filename)

    find.knows_mmrest = True
    Config._get_cfg_path = staticmethod(find)
