"""What can be wrong with a checkpoint."""

from __future__ import annotations

from mmrest.errors import InputError


class CheckpointError(InputError):
    """A checkpoint cannot be read safely, or does not fit the model."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no such checkpoint."""
