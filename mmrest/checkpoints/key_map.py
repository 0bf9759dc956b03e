"""How published checkpoints name their tensors, as data beside each family."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

Replacement = str | Callable[[re.Match], str]
Adapt = Callable[[Tensor, torch.Size], Tensor]


@dataclass(frozen=True)
class Fresh:
    """Own keys that files of a layout do not have, and which then start fresh.

    Attributes:
        own: Pattern of the own keys.
        unless: Not where a key of the file matches this pattern.
        given: Only where a key of the file matches this pattern.
        note: What a user should know of it.
    """

    own: str
    unless: str | None = None
    given: str | None = None
    note: str = ''

    def applies(self, keys: Iterable[str]) -> bool:
        """True for a file with these keys."""
        keys = list(keys)
        if self.unless is not None and _matches(self.unless, keys):
            return False
        return self.given is None or _matches(self.given, keys)


@dataclass(frozen=True)
class KeyMap:
    """From a file's keys to a backbone's own; patterns match from a key's beginning.

    A backbone's own keys stay as they are. Two names are not its own yet: ``cls_norm.`` is the norm
    in front of the classifier, and ``out_norms.i.`` that of the i-th output; the trunk places them.

    Attributes:
        rules: (pattern, replacement) in the order in which they are applied to every key, each to
            what the one before made of it. Several replacements make several tensors of one.
        drop: Patterns of the file's keys that no backbone uses, a classifier's for example.
        adapt: Pattern of an own key -> function of a file's tensor and the shape of the own one,
            for example to resize a table of positions. It is called only where the shapes differ.
        fresh: Own keys that some files do not have.
        signature: Patterns that each match a key of the family's published files, and that
            together no other family's do.
        not_of: A pattern that no key of its files matches, for a family whose files another one's
            contain.
    """

    rules: tuple[tuple[str, Replacement | tuple[Replacement, ...]], ...] = ()
    drop: tuple[str, ...] = ()
    adapt: Mapping[str, Adapt] = field(default_factory=dict)
    fresh: tuple[Fresh, ...] = ()
    signature: tuple[str, ...] = ()
    not_of: str | None = None

    def rename(self, key: str) -> list[str]:
        """The names that a file's key becomes; none if it is dropped."""
        if any(re.match(pattern, key) for pattern in self.drop):
            return []
        keys = [key]
        for pattern, replacements in self.rules:
            several = replacements if isinstance(replacements, tuple) else (replacements,)
            renamed: list[str] = []
            for name in keys:
                if re.match(pattern, name):
                    renamed += [re.sub(pattern, new, name, count=1) for new in several]
                else:
                    renamed.append(name)
            keys = renamed
        return keys

    def fit(self, key: str, tensor: Tensor, shape: torch.Size) -> Tensor:
        """A file's tensor for an own key, adapted to the own shape where there is a rule."""
        if tensor.shape == shape:
            return tensor
        for pattern, adapt in self.adapt.items():
            if re.match(pattern, key):
                return adapt(tensor, shape)
        return tensor

    def may_be_of(self, state: Iterable[str]) -> bool:
        """True if a file with these keys has the family's signature."""
        keys = list(state)
        if self.not_of is not None and _matches(self.not_of, keys):
            return False
        return bool(self.signature) and all(_matches(pattern, keys) for pattern in self.signature)


def counted_from_one(template: str) -> Callable[[re.Match], str]:
    """A replacement that writes a pattern's first group, a number, less one into ``{}``."""
    return lambda match: template.format(int(match[1]) - 1)


# A layer of mmcv's MultiheadAttention, for rules; see query_rows and key_value_rows.
MMCV_ATTENTION = (
    (r'(.+\.attn)\.attn\.in_proj_(weight|bias)$', (r'\1.q.\2', r'\1.kv.\2')),
    (r'(.+\.attn)\.attn\.out_proj\.', r'\1.proj.'),
)


def query_rows(rows: Tensor, shape: torch.Size) -> Tensor:
    """Of a projection to queries, keys and values together, that to the queries."""
    return rows[: shape[0]] if len(rows) == 3 * shape[0] else rows


def key_value_rows(rows: Tensor, shape: torch.Size) -> Tensor:
    """Of a projection to queries, keys and values together, that to keys and values."""
    return rows[-shape[0] :] if 2 * len(rows) == 3 * shape[0] else rows


def as_linear(weight: Tensor, shape: torch.Size) -> Tensor:
    """Weights (out, in, 1, 1) of a 1x1 convolution as a linear layer's."""
    return weight[:, :, 0, 0] if weight.ndim == 4 and weight.shape[2:] == (1, 1) else weight


def _matches(pattern: str, keys: Iterable[str]) -> bool:
    return any(re.match(pattern, key) for key in keys)
