"""Making mmengine's runners and inferencers read, and load, what was checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.runner import CheckpointLoader

from mmrest.checkpoints.errors import CheckpointError
from mmrest.checkpoints.fitting import take_backbone
from mmrest.checkpoints.reading import read_checkpoint
from mmrest.checkpoints.states import NESTING, model_state


def use_safe_reader() -> None:
    """Make mmengine's runner and inferencers read checkpoints with :func:`read_checkpoint`.

    The command lines in ``tools/`` call this, so that ``--resume`` works on every torch and
    nothing is unpickled unsafely, whatever address it has. In your own script call it before
    building a Runner.
    """
    CheckpointLoader.register_scheme(list(CheckpointLoader._schemes), load_from_mmrest, force=True)


def load_from_mmrest(filename: str, map_location: Any = None) -> Any:
    """Loader for mmengine's ``CheckpointLoader``, which names loaders ``load_from_...``.

    Returns:
        What the file holds, with the model's tensors under ``state_dict`` as :func:`model_state`
        finds them, whatever the layout: what the checks see is what mmengine loads.
    """
    checkpoint = read_checkpoint(filename, map_location=map_location)
    if not isinstance(checkpoint, Mapping):
        return checkpoint
    meta = checkpoint.get('meta')
    if isinstance(meta, dict):
        # Runner.resume would execute this text as Python; mmengine itself writes `cfg` instead.
        meta.pop('config', None)
    try:
        state = model_state(checkpoint, filename)
    except CheckpointError:  # no model, but perhaps what somebody else's code asks for
        return checkpoint
    if filename.startswith('mmcls://'):  # these are classifiers, of which the backbone is meant
        state = take_backbone(state, filename, 'backbone')
    # tensors that lie at the top stay there, too: some of mmseg's models look for them themselves
    others = {key: value for key, value in checkpoint.items() if key not in NESTING}
    return {'meta': {}, **others, 'state_dict': state}
