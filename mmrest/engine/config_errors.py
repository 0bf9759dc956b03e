"""What is wrong with a config that cannot be built, in one line instead of a traceback."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import FrameSummary, extract_tb, walk_tb
from types import FrameType, TracebackType
from typing import Any

from mmengine.registry import build_from_cfg
from mmengine.runner import Runner

from mmrest.errors import InputError, did_you_mean, list_some

# no arguments that a config gives: of every method, and of optimizers
_GIVEN = {'self', 'args', 'kwargs', 'params', 'defaults'}
# what classes and registries raise where a config does not suit them
_REFUSALS = (
    *(TypeError, KeyError, ValueError, AssertionError, IndexError, AttributeError),
    # a library that is missing, as mmdet's re-identification says it; a file that is not there
    *(RuntimeError, ImportError, OSError),
)

# and of Python itself, of this package, and of code that has no file
_OF_LIBRARIES = re.compile(
    rf'[/\\\\](?:site|dist)-packages[/\\\\]|^{re.escape(os.path.dirname(os.__file__))}|^<|'
    rf'^{re.escape(str(Path(__file__).parents[1]))}'
)

# methods of mmengine's runner that build and begin nothing else
_BUILDS = 'build_', 'register_', 'set_randomness', 'setup_env'


@contextmanager
def explain_config_errors() -> Iterator[None]:
    """Turn what a part of a config cannot be built for into an :class:`InputError`.

    That is an unknown type or argument, and what a class itself says of its arguments, with the
    place. Errors of a run, where nothing is being built, keep their traceback.
    """
    try:
        yield
    except InputError:
        raise
    except _REFUSALS as error:
        frame = _building_frame(error.__traceback__)
        text = _explain(error, frame) if frame else _explain_of_runner(error)
        if text is None:
            raise
        raise InputError(text) from error


def _building_frame(traceback: TracebackType | None) -> FrameType | None:
    """The innermost place at which a registry was building something."""
    found = None
    while traceback is not None:
        if traceback.tb_frame.f_code is build_from_cfg.__code__:
            found = traceback.tb_frame
        traceback = traceback.tb_next
    return found


def _explain_of_runner(error: Exception) -> str | None:
    """What mmengine's runner says of a setting that it gives to no registry."""
    for frame, _ in walk_tb(error.__traceback__):
        name = frame.f_code.co_name
        builds = name == '__init__' or name.startswith(_BUILDS)
        if frame.f_globals.get('__name__') == Runner.__module__ and builds:
            last = extract_tb(error.__traceback__)[-1]
            return (
                f'the config cannot be built: {type(error).__name__}: {error} '
                f'({last.filename}:{last.lineno})'
            )
    return None


def is_of_libraries(file: str) -> bool:
    """Whether code is installed, of Python or of this package, and not of a user's own files."""
    return _OF_LIBRARIES.search(file) is not None


def _place(error: Exception) -> FrameSummary:
    """Where it was raised; if a class of one's own has called a library, there."""
    frames = extract_tb(error.__traceback__)
    code = build_from_cfg.__code__
    calls = [
        i for i, f in enumerate(frames) if (f.filename, f.name) == (code.co_filename, code.co_name)
    ]
    built = frames[calls[-1] + 1 :]
    own = [frame for frame in built if not is_of_libraries(frame.filename)]
    return own[-1] if own else frames[-1]


def _explain(error: Exception, frame: FrameType) -> str | None:
    local = frame.f_locals
    built, arguments = local.get('obj_cls'), local.get('args', {})
    if built is None:
        if isinstance(error, KeyError) and 'obj_type' in local:
            return unknown_type(local['obj_type'], local['registry'])
        if isinstance(error, KeyError) and 'must contain the key "type"' in str(error):
            return f'a part of the config has no type: {local["cfg"]}'
        if isinstance(error, TypeError) and 'should be a dict' in str(error):
            kind = getattr(local.get('registry'), 'name', 'part')
            return f'a {kind} of the config is {local["cfg"]!r:.60} in the place of dict(type=...)'
        if isinstance(error, TypeError) and 'type must be a str' in str(error):
            kind = getattr(local.get('registry'), 'name', 'part')
            return (
                f'a {kind} of the config has type={local["obj_type"]!r:.60}, which names no class'
            )
        return None
    name = getattr(built, '__name__', str(built)) + _place_of(local.get('registry'), built)
    if match := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
        if match[1] not in arguments:
            return None
        return f'the config gives {name} {_unknown_arguments(match[1], arguments, built)}'
    if match := re.search(r'missing \d+ required \w+(?:-only)? arguments?: (.*)', str(error)):
        return f'the config gives {name} no {match[1]}, which it needs'
    last = _place(error)
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    text = ' '.join(text.split()) or last.line  # an assertion that says nothing
    if 'palette does not match classes' in text:
        text = (
            'palette does not match classes; write metainfo=dict(classes=..., palette=[[r, g, b], '
            '...]) with a colour for each class (that of a base is of other classes)'
        )
    elif isinstance(error, ValueError) and 'ann_file' in arguments:  # no JSON, for example
        text += f', of {os.path.join(arguments.get("data_root") or "", arguments["ann_file"])}'
    return (
        f'the {name} of the config cannot be built: {type(error).__name__}: {text} '
        f'({last.filename}:{last.lineno})'
    )


def _unknown_arguments(first: str, given: Iterable[str], built: Any) -> str:
    known = _parameters(built)
    others = [name for name in given if name not in {first, 'type', *known, *_GIVEN}]
    if others:
        return (
            f'arguments {list_some(map(repr, [first, *others]))}, which it does not have. If they '
            'are those of another class, which a base of the config sets here, add _delete_=True '
            'to this dict'
        )
    hint = did_you_mean(first, known, most=2) or (
        f'; it has {list_some(sorted(known), most=25)}. If it is that of another class, which a '
        'base of the config sets here, add _delete_=True to this dict'
    )
    return f'an argument {first!r}, which it does not have{hint}'


def _place_of(registry: Any, built: Any) -> str:
    """Where a loop stands in a config, whose class its user did not choose."""
    if getattr(registry, 'name', None) != 'loop':
        return ''
    name = built.__name__
    return f' ({"val" if "Val" in name else "test" if "Test" in name else "train"}_cfg)'


def unknown_type(name: str, registry: Any) -> str:
    """That a registry has no class of this name, and which it has that are spelled alike."""
    own = name.rpartition('.')[2]
    names = set(registry.module_dict)
    if registry.parent is not None:
        names |= set(registry.parent.module_dict)
    if name == f'mmrest.{own}' and own in names:
        return (
            f'{name} is not found: {own} is registered, but mmrest/api.py neither imports it nor '
            'names it in __all__'
        )
    hint = did_you_mean(own, names, most=2)
    return (
        f'{name} is no {registry.name} that {registry.scope} knows{hint} (a module of your own '
        "must be named in custom_imports=dict(imports=['...']))"
    )


def _parameters(built: Any) -> set[str]:
    """Names of the arguments of a class that a config gives, also of the classes above it."""
    makers = (
        [vars(kind).get('__init__') for kind in inspect.getmro(built)]
        if (inspect.isclass(built))
        else [built]
    )
    names = set()
    for maker in makers:
        if inspect.isfunction(maker):
            names |= set(inspect.signature(maker).parameters) - _GIVEN
    return names
