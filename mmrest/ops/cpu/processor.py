"""What Linux tells about the processor."""

from __future__ import annotations


def processor_facts(path: str = '/proc/cpuinfo') -> dict[str, str]:
    """The fields of the first core in Linux' list of them; none on another system."""
    try:
        with open(path) as file:
            first_core = file.read().split('\n\n')[0]
    except OSError:
        return {}
    fields = (line.partition(':') for line in first_core.splitlines())
    return {name.strip(): value.strip() for name, _, value in fields}
