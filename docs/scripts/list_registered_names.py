r"""List the names that OpenMMLab's packages register, from their sources.

The list is ``tests/registered_names.txt``: ``tests/test_names.py`` holds every name that mmrest
registers against it. Nothing is imported, so that packages need not be installed, and both
distributions of a package can be listed together. To make it anew::

    python docs/scripts/list_registered_names.py SITE_PACKAGES/mmengine SITE_PACKAGES/mmcv \
        SITE_PACKAGES/mmdet SITE_PACKAGES/mmseg mmpretrain-1.2.0/mmpretrain ... \
        > tests/registered_names.txt

where the folder of mmpretrain is from ``pip download --no-deps mmpretrain`` (or
``onedl-mmpretrain``), unpacked.

Found are ``@REGISTRY.register_module()`` with a name, several or none (the class's own),
``REGISTRY.register_module(module=...)``, also in a loop over classes that are written out, and
mmpretrain's wrappers of these for Hugging Face. Names that are made while a program runs (torch's
optimizers by ``dir(torch.optim)``) are not; the list's header says where.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

# What registers, besides methods of registries.
_WRAPPERS = ('register_hf_model', 'register_hf_tokenizer')
# Copies of tools and configs, the packages' own tests, and what defines registering.
_SKIPPED = ('.mim', 'tests', 'testing', 'registry/registry.py', 'models/utils/huggingface.py')


def main() -> None:
    """Print the list for the packages that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('packages', nargs='+', type=Path, help="a package's folder of sources")
    args = parser.parse_args()
    users: dict[str, set[str]] = defaultdict(set)
    versions, unknown = [], set()
    for package in args.packages:
        versions.append(version_of(package))
        for name, place in names_of(package):
            if name is None:
                unknown.add(place)
            else:
                users[name].add(package.name)
    if not users:
        sys.exit('no names found; give the folders of packages, for example .../mmdet')
    print('# Names that are registered in any registry of these packages, and by which of them:')
    for version in sorted(versions):
        print(f'#   {version}')
    print('# Made by docs/scripts/list_registered_names.py. Not listed, since named at run time:')
    for place in sorted(unknown):
        print(f'#   {place}')
    for name in sorted(users):
        print(name, *sorted(users[name]))


def version_of(package: Path) -> str:
    """Name and version of the distribution that a package is from."""
    text = (package / 'version.py').read_text(encoding='utf-8')
    if match := re.search(r"^__version__ = '(.+)'", text, re.MULTILINE):
        return f'{package.name} {match[1]}'
    # those of onedl ask the metadata, which lie beside the package
    name = re.search(r"^__version__ = version\('(.+)'\)", text, re.MULTILINE)[1]
    (found,) = distributions(name=name, path=[str(package.resolve().parent)])
    return f'{package.name} {found.version} ({name})'


def names_of(package: Path) -> Iterator[tuple[str | None, str]]:
    """Each name that is registered and the file that does; None is a name that cannot be told."""
    for file in sorted(package.rglob('*.py')):
        place = file.relative_to(package)
        if any(f'/{part}/' in f'/{place.as_posix()}/' for part in _SKIPPED):
            continue
        found = _Registrations()
        found.visit(ast.parse(file.read_text(encoding='utf-8')))
        for name in found.names:
            yield name, f'{package.name}/{place.as_posix()}'


class _Registrations(ast.NodeVisitor):
    """The names that a module's source registers."""

    def __init__(self) -> None:
        self.names: list[str | None] = []
        self._loops: dict[str, list[ast.expr]] = {}
        self._decorators: set[ast.expr] = set()

    def visit_ClassDef(self, node: ast.ClassDef | ast.FunctionDef) -> None:
        for decorator in node.decorator_list:
            if _registers(decorator):
                self._decorators.add(decorator)
                self._add(decorator, own=node.name)
        self.generic_visit(node)

    visit_FunctionDef = visit_ClassDef

    def visit_For(self, node: ast.For) -> None:
        if isinstance(node.target, ast.Name):
            classes = node.iter.elts if isinstance(node.iter, ast.List | ast.Tuple) else []
            self._loops[node.target.id] = classes
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if _registers(node) and node not in self._decorators:
            self._add(node)
        self.generic_visit(node)

    def _add(self, call: ast.Call, own: str | None = None) -> None:
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        module = given.get('module')
        if isinstance(call.func, ast.Name):  # a wrapper, which takes the class first
            module = call.args[0] if call.args else None
            name = given.get('name')
        else:
            name = call.args[0] if call.args else given.get('name')
        if name is not None and not _is_none(name):
            nodes = name.elts if isinstance(name, ast.List | ast.Tuple) else [name]
            self.names += [n.value if isinstance(n, ast.Constant) else None for n in nodes]
        elif own is not None:
            self.names.append(own)
        elif isinstance(module, ast.Name) and module.id in self._loops:
            classes = self._loops[module.id]
            self.names += [_last_part(each) for each in classes] if classes else [None]
        else:
            self.names.append(_last_part(module))


def _registers(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id in _WRAPPERS
    return isinstance(node.func, ast.Attribute) and node.func.attr == 'register_module'


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _last_part(node: ast.expr | None) -> str | None:
    """Name of a class that is written out, without the module before it."""
    if isinstance(node, ast.Attribute):
        return node.attr
    # a class is written with a capital; a variable holds whatever it holds
    return node.id if isinstance(node, ast.Name) and node.id[0].isupper() else None


if __name__ == '__main__':
    main()
