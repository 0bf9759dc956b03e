"""Attention operators. This package knows torch and nothing else of mmrest."""

from mmrest.ops.attention import emsa
from mmrest.ops.windows import attend_in_windows

__all__ = ['attend_in_windows', 'emsa']
