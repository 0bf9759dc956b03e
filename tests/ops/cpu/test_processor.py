from __future__ import annotations

from pathlib import Path

import pytest

from mmrest.ops.cpu.matmul import is_mkl_fast, is_mkl_faster_in_blocks
from mmrest.ops.cpu.processor import processor_facts


def test_facts_are_those_of_the_first_core(tmp_path: Path) -> None:
    file = tmp_path / 'cpuinfo'
    file.write_text('processor\t: 0\nmodel name\t: A: B\nflags\t\t:\n\nprocessor\t: 1\n')
    assert processor_facts(str(file)) == {'processor': '0', 'model name': 'A: B', 'flags': ''}


def test_other_systems_tell_nothing(tmp_path: Path) -> None:
    assert processor_facts(str(tmp_path / 'missing')) == {}
    assert not is_mkl_fast({})


@pytest.mark.parametrize(
    ('vendor', 'family', 'fast'),
    [
        ('GenuineIntel', '6', True),
        ('AuthenticAMD', '25', True),
        ('AuthenticAMD', '26', False),
        ('AuthenticAMD', None, False),
        ('Another', '6', False),
    ],
)
def test_mkl_is_fast_where_units_are_narrow_or_intels(
    vendor: str, family: str | None, fast: bool
) -> None:
    facts = {'vendor_id': vendor, 'cpu family': family}
    assert is_mkl_fast({key: value for key, value in facts.items() if value}) == fast


@pytest.mark.parametrize(
    ('vendor', 'flags', 'faster'),
    [
        ('GenuineIntel', 'avx2 avx512f', True),
        ('GenuineIntel', 'avx2', True),
        ('AuthenticAMD', 'avx2', True),
        ('AuthenticAMD', 'avx2 avx512f', False),
        ('Another', 'avx2', False),
    ],
)
def test_mkl_multiplies_blocks_where_onednn_has_no_wider_units(
    vendor: str, flags: str, faster: bool
) -> None:
    assert is_mkl_faster_in_blocks({'vendor_id': vendor, 'flags': flags}) == faster
