"""``python -m mmrest COMMAND ...``."""

from __future__ import annotations

import importlib
import os
import sys

from mmrest.errors import clear_errors, did_you_mean
from mmrest.version import __version__

# Name -> what it does; the module of that name in mmrest/tools does it.
COMMANDS = {
    'train': 'train a detector or segmentor',
    'test': 'test one',
    'sweep': 'test one at several resolutions',
    'predict': 'draw predictions into pictures',
    'report': 'a page about a run, or about several',
    'list': 'families, variants and configs',
    'info': 'what a config describes: levels, parameters, multiply-adds, memory',
    'weights': 'the published weights: which are here, and where the others are',
    'convert': 'write a checkpoint as safetensors',
    'export': 'write a model as ONNX or as a program of torch.export',
    'benchmark': 'measure time and memory',
    'complexity': 'count parameters and multiply-adds',
    'doctor': 'is everything installed, and does it fit together?',
}


def main() -> None:
    """Run a command, or list them."""
    name = sys.argv[1] if len(sys.argv) > 1 else '--help'
    if name in ('-h', '--help'):
        print('usage: python -m mmrest COMMAND ...\n')
        print('\n'.join(f'  {command:12} {does}' for command, does in COMMANDS.items()))
        print('\npython -m mmrest COMMAND --help tells more.')
        return
    if name == '--version':
        print(__version__)
        return
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        sys.exit(f'error: mmrest has no command {name}; it has {", ".join(COMMANDS)}{hint}')
    # as argparse shows it
    program = 'mmrest' if os.path.basename(sys.argv[0]) == 'mmrest' else 'python -m mmrest'
    sys.argv[:2] = [f'{program} {name}']
    with clear_errors():  # Ctrl-C while it is imported, which takes seconds
        importlib.import_module(f'mmrest.tools.{name}').main()


if __name__ == '__main__':
    main()
