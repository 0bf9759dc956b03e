"""Attention operators. This package knows torch and nothing else of mmrest."""

from mmrest.ops.attention import emsa

__all__ = ['emsa']
