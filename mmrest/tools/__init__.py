"""The commands: ``python -m mmrest NAME ...``; those in ``tools/`` of a clone are the same."""
