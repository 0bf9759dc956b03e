"""What sets the variants of a family apart, as frozen dataclasses whose fields are checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, TypeVar, get_args, get_type_hints

from mmrest.errors import InputError

Own = TypeVar('Own', bound='Arch')


# by the name of a field's type
_WANTED = dict(
    int='a whole number above 0',
    float='a number above 0',
    tuple='a tuple of whole numbers above 0',
    bool='True or False',
    str='a text',
)


@dataclass(frozen=True)
class Arch:
    """Base of a family's architecture.

    Fields are ``int``, ``float``, ``bool``, ``str`` or tuples of those or of tuples, one for each
    stage. Numbers must be above 0.

    Raises:
        InputError: A field is not what its annotation says; the message names it.
    """

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            inner = get_args(kind)
            if inner and isinstance(value, list):  # configs have lists
                value = tuple(tuple(v) if isinstance(v, list) else v for v in value)
                object.__setattr__(self, name, value)
            if not _is_good(value, kind):
                wanted = _WANTED[(inner[0] if inner else kind).__name__]
                each = ' for each stage, for example (2, 2, 6, 2)' if inner else ''
                raise InputError(
                    f'{self.family()}: arch field {name}={value!r} must have {wanted}{each}'
                )

    @classmethod
    def family(cls) -> str:
        """Name of the family, for messages."""
        return cls.__name__.removesuffix('Arch')

    @classmethod
    def resolve(
        cls: type[Own], arch: str | Mapping[str, Any] | Own, variants: Mapping[str, Own]
    ) -> Own:
        """A published variant by its name, or a user's own fields.

        Args:
            arch: A key of ``variants``, an instance of this class, or a mapping of its fields, all
                that have no default or those that differ from a ``variant``.
            variants: The published ones.

        Raises:
            InputError: An unknown name, or missing, unknown or inconsistent fields.
        """
        if isinstance(arch, cls):
            return arch
        if isinstance(arch, str):
            if arch not in variants:
                raise InputError(
                    f'{cls.family()}: unknown arch {arch!r}; published variants are '
                    f'{", ".join(variants)}, or give a dict with the fields of {cls.__name__}'
                )
            return variants[arch]
        if not isinstance(arch, Mapping):
            raise InputError(
                f'{cls.family()}: arch={arch!r} must be a name, a dict or a {cls.__name__}'
            )
        known = {field.name: field for field in fields(cls)}
        given = {name: value for name, value in arch.items() if name != 'variant'}
        base = cls.resolve(str(arch['variant']), variants) if 'variant' in arch else None
        required = {name for name, field in known.items() if field.default is MISSING and not base}
        missing, unknown = required - given.keys(), given.keys() - known.keys()
        if missing or unknown:
            raise InputError(
                f'{cls.family()}: an arch dict has the fields {", ".join(known)}; '
                f'missing: {sorted(missing) or "none"}, unknown: {sorted(unknown) or "none"}'
            )
        return replace(base, **given) if base else cls(**given)


@dataclass(frozen=True)
class HierarchicalArch(Arch):
    """An architecture of stages: every tuple has a value for each stage.

    A default is cut to the number of stages.

    Attributes:
        embed_dims: Channels of each stage.
        depths: Blocks of each stage.
    """

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        stages = len(self.embed_dims)
        for field in fields(self):
            name, values = field.name, getattr(self, field.name)
            if values is field.default and isinstance(values, tuple):  # of fewer stages
                values = values[:stages]
                object.__setattr__(self, name, values)
            if isinstance(values, tuple) and len(values) != stages:
                raise InputError(
                    f'{self.family()}: the fields of arch differ in their numbers of stages: '
                    f'embed_dims={self.embed_dims}, {name}={values}'
                )

    @property
    def out_dims(self) -> tuple[int, ...]:
        """Channels of the stages' maps; a family whose stages end wider overrides it."""
        return self.embed_dims

    def require_multiples(self, of: str) -> None:
        """Check that each stage's channels are a multiple of another field's value.

        Raises:
            InputError: They are not.
        """
        for dim, divisor in zip(self.embed_dims, getattr(self, of), strict=True):
            if dim % divisor:
                raise InputError(
                    f'{self.family()}: embed_dims {dim} is not a multiple of {of} {divisor}'
                )

    def require_image_size(self, image_size: int) -> None:
        """Check that an image of the training is not smaller than the last stage's stride.

        Raises:
            InputError: It is.
        """
        if image_size < 4 * 2 ** (len(self.embed_dims) - 1):
            raise InputError(
                f'{self.family()}: arch field image_size={image_size} must be the stride of the '
                'last stage or more'
            )

    def require_hidden_channels(self, ratios: str = 'mlp_ratios') -> None:
        """Check that no MLP is left without hidden channels.

        Raises:
            InputError: One is.
        """
        for dim, ratio in zip(self.embed_dims, getattr(self, ratios), strict=True):
            if int(dim * ratio) < 1:
                raise InputError(f'{self.family()}: {ratios} {ratio} of {dim} channels leaves none')


@dataclass(frozen=True)
class TransformerArch(HierarchicalArch):
    """Stages of transformer blocks; fields per stage.

    Attributes:
        num_heads: Attention heads.
        mlp_ratios: Hidden channels of the MLPs relative to ``embed_dims``.
    """

    num_heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[float, ...] = (4, 4, 4, 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_multiples(of='num_heads')
        self.require_hidden_channels()


def _are_good(values: Any, kind: type) -> bool:
    return isinstance(values, tuple) and bool(values) and all(_is_good(v, kind) for v in values)


def _is_good(value: Any, kind: type) -> bool:
    if inner := get_args(kind):
        return _are_good(value, inner[0])
    if kind is float:
        return type(value) in (int, float) and 0 < value < math.inf
    if kind is int:
        return type(value) is int and value > 0
    return type(value) is kind


def require_switches(name: str, **values: Any) -> None:
    """Check arguments that are on or off.

    A text, as a mistyped option of a command line is, would be taken for on.

    Args:
        name: Of the class that they are given to.
        values: By their names.

    Raises:
        InputError: One is not; the message names it.
    """
    for argument, value in values.items():
        if isinstance(value, str) or value not in (True, False):
            raise InputError(f'{name}: {argument}={value!r} must be True or False')
