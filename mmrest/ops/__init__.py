"""Attention operators. This package knows torch and nothing else of mmrest."""

from mmrest.ops.emsa import emsa

__all__ = ['emsa']
