"""What a Runner uses: hooks, the layer-decay constructor, test-time augmentation with masks."""

from __future__ import annotations

from typing import Any

_MOVED = ('load_config', 'move_data_root', 'prepare_data', 'require_usable_data')


def __getattr__(name: str) -> Any:
    # users' scripts import these from here; not at the top, since this room lies below commands
    if name in _MOVED:
        import mmrest.commands

        return getattr(mmrest.commands, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
