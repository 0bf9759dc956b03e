"""Which room of the package imports which: docs/architecture.md, held."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import mmrest.commands
from tests.conftest import ROOT

# Room -> rooms that it may import. Each may only name rooms below it, so that there is no circle.
MAY_IMPORT = {
    '__main__': 'tools errors version',
    'tools': (
        'report multires commands benchmark engine inference backbones checkpoints ops '
        'config_nodes lookup stack progress errors'
    ),
    '__init__': 'api lookup stack errors version',
    'api': 'multires engine necks backbones lookup',
    'multires': 'commands benchmark config_nodes progress errors',
    'commands': (
        'engine inference datasets backbones checkpoints ops config_nodes lookup wrappers '
        'progress errors'
    ),
    'report': 'engine errors version',
    'benchmark': 'engine inference ops config_nodes lookup progress errors',
    'engine': 'inference backbones checkpoints ops wrappers errors',
    'inference': 'backbones errors',
    'datasets': 'progress errors',
    'necks': 'errors',
    'backbones': 'checkpoints ops errors',
    'checkpoints': 'wrappers errors',
    'ops': 'errors',
    'config_nodes': 'errors',
    'lookup': 'errors',
    'wrappers': '',
    'stack': '',
    'errors': '',
    'progress': '',
    'version': '',
}
# The rooms that must work without mmdet and mmseg import nothing but this.
LIBRARIES = {
    'inference': ('torch', 'mmcv.cnn'),
    # the last two lazily, where mmcv has operators
    'backbones': (
        *('torch', 'mmengine', 'mmcv.cnn'),
        *('mmcv.ops.info', 'mmcv.ops.multi_scale_deform_attn'),
    ),
    'necks': ('torch', 'mmengine', 'mmcv.cnn'),
    'checkpoints': ('torch', 'mmengine', 'numpy', 'safetensors', 'filelock', 'pavi', 'gdown'),
    'ops': ('torch', 'triton'),
    'config_nodes': ('mmengine',),
    'lookup': ('mmengine',),
    'wrappers': ('torch', 'mmengine'),
    'stack': (),
    'errors': (),
    'progress': (),
    'version': (),
}
USE_OPENMMLAB = {'tools', 'multires', 'benchmark', 'commands', 'engine', 'datasets'}
# Their classes derive from one of mmdet's; a config of mmdet names them, no module imports them.
DERIVED = 'mmrest.engine.mask_tta', 'mmrest.engine.one_mask_head'
# The names that outside scripts import from mmrest.engine are looked up when they are asked for.
UPWARD = {('mmrest.engine', 'mmrest.commands')}


def module_name(file: Path) -> str:
    """``mmrest.ops`` of ``mmrest/ops/__init__.py``."""
    parts = file.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


FILES = sorted((ROOT / 'mmrest').rglob('*.py'))
ROOMS = {file.relative_to(ROOT / 'mmrest').parts[0].removesuffix('.py') for file in FILES}


@dataclass(frozen=True)
class Import:
    """An import in a module of the package.

    Attributes:
        importer: The module's full name.
        imported: The full name of what is imported, also of a name inside a module.
        when_loaded: Whether it happens when the importer is loaded, or later in a function.
    """

    importer: str
    imported: str
    when_loaded: bool

    def __str__(self) -> str:
        return f'{self.importer} imports {self.imported}'

    @property
    def room(self) -> str:
        """Of the importer."""
        return room_of(self.importer)

    @property
    def library(self) -> str:
        """The package that is imported from."""
        return self.imported.partition('.')[0]


def room_of(module: str) -> str:
    """The room of a module of the package, or of a name in one."""
    part = f'{module}.'.split('.')[1]
    return part if part in ROOMS else '__init__'


def imports_of(source: str, importer: str, is_package: bool = False) -> Iterator[Import]:
    """Every import of a module, with relative ones made absolute."""
    nodes: list[tuple[ast.AST, bool]] = [(ast.parse(source), True)]
    while nodes:
        node, when_loaded = nodes.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, alias.name, when_loaded)
        elif isinstance(node, ast.ImportFrom):
            parts = importer.split('.')
            up = len(parts) - node.level + is_package
            base = [*(parts[:up] if node.level else ()), *([node.module] if node.module else ())]
            for alias in node.names:
                yield Import(importer, '.'.join([*base, alias.name]), when_loaded)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        nodes += [(child, when_loaded and not inside) for child in ast.iter_child_nodes(node)]


IMPORTS = [
    found
    for file in FILES
    for found in imports_of(file.read_text(), module_name(file), file.name == '__init__.py')
]


def wrong_rooms(imports: list[Import]) -> list[str]:
    """Imports of a room that the importer's may not import."""
    return [
        str(found)
        for found in imports
        if found.library == 'mmrest'
        and room_of(found.imported) not in (found.room, *MAY_IMPORT[found.room].split())
        and (found.when_loaded or (found.importer, found.imported) not in UPWARD)
    ]


def wrong_libraries(imports: list[Import]) -> list[str]:
    """Imports of a library that the importer's room may not know, or may not know when loaded."""
    wrong = []
    for found in imports:
        if found.library == 'mmrest' or found.library in sys.stdlib_module_names:
            continue
        known = LIBRARIES.get(found.room)
        if known is not None:
            passes = any(f'{found.imported}.'.startswith(f'{name}.') for name in known)
        elif found.library in ('mmdet', 'mmseg'):
            later = not found.when_loaded or found.importer in DERIVED
            passes = found.room in USE_OPENMMLAB and later
        else:
            passes = True
        if not passes:
            wrong.append(str(found))
    return wrong


def test_the_table_points_down_and_names_every_room() -> None:
    rooms = list(MAY_IMPORT)
    for i, room in enumerate(rooms):
        assert set(MAY_IMPORT[room].split()) <= set(rooms[i + 1 :]), room
    assert set(rooms) == ROOMS
    assert USE_OPENMMLAB.isdisjoint(LIBRARIES)


def test_the_document_draws_the_table() -> None:
    text = (ROOT / 'docs/architecture.md').read_text()
    drawn = re.findall(r'^    ([a-z, ]+?) +-> (.+)$', text, re.MULTILINE)
    arrows = {room: rooms for left, rooms in drawn for room in left.split(', ')}
    # beside the rooms, whatever file imports one
    shown = [room for room in ROOMS if (ROOT / 'mmrest' / room).is_dir()] + ['inference']
    assert set(arrows) == set(shown)
    for room in shown:
        expected = [other for other in MAY_IMPORT[room].split() if other in shown]
        assert arrows[room] == (', '.join(expected) or 'none of these'), room


def test_imports_point_down() -> None:
    assert not wrong_rooms(IMPORTS)


def test_libraries_are_known_where_they_may_be() -> None:
    assert not wrong_libraries(IMPORTS)
    derived = tuple(f'{module}.' for module in DERIVED)
    assert not [str(found) for found in IMPORTS if f'{found.imported}.'.startswith(derived)]


@pytest.mark.parametrize(
    ('importer', 'source', 'wrong'),
    [
        ('mmrest.engine.x', 'from mmrest.commands.cli import build_runner', True),
        ('mmrest.engine.x', 'def f():\n    from ..commands import cli', True),
        ('mmrest.engine.x', 'from mmrest import commands', True),
        ('mmrest.engine', 'import mmrest.commands', True),
        ('mmrest.engine', 'def f():\n    import mmrest.commands', False),
        ('mmrest.engine.x', 'if True:\n    import mmrest.benchmark.machine as m', True),
        ('mmrest.backbones.x', 'from mmrest.engine import compiling', True),
        ('mmrest.ops.x', 'from mmrest.checkpoints import read_checkpoint', True),
        ('mmrest.ops.x', 'import mmrest', True),
        ('mmrest.ops.x', 'import numpy', True),
        ('mmrest.backbones.x', 'from mmcv.ops import roi_align', True),
        ('mmrest.backbones.x', 'def f():\n    import mmdet', True),
        ('mmrest.engine.x', 'from mmdet.structures import DetDataSample', True),
        ('mmrest.engine.x', 'class A:\n    from mmseg.apis import MMSegInferencer', True),
        ('mmrest.engine.x', 'def f():\n    from mmdet.structures import DetDataSample', False),
        ('mmrest.commands.x', 'from mmrest.engine.pictures import DrawPredictionsHook', False),
        ('mmrest.commands.x', 'from .cli import parse_shape', False),
        ('mmrest.ops.x', 'import math, torch.nn\nfrom mmrest.errors import InputError', False),
        ('mmrest.backbones.x', 'from mmcv.cnn import build_norm_layer', False),
    ],
)
def test_a_wrong_import_is_found(importer: str, source: str, wrong: bool) -> None:
    imports = list(imports_of(source, importer))
    assert bool(wrong_rooms(imports) + wrong_libraries(imports)) == wrong


def test_what_outside_scripts_import_from_engine_is_found_there() -> None:
    from mmrest.engine import load_config, move_data_root, prepare_data, require_usable_data

    for function in (load_config, move_data_root, prepare_data, require_usable_data):
        assert function is getattr(mmrest.commands, function.__name__)
    with pytest.raises(ImportError, match='no_such_name'):
        from mmrest.engine import no_such_name  # noqa: F401
