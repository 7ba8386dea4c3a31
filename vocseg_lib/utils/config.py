"""Configs: frozen dataclasses whose fields are checked when they are made."""

import json
import math
import sys
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from inspect import formatannotation
from types import UnionType
from typing import Any, Literal, get_args, get_origin

ABOVE_ZERO = math.ulp(0.0)  # the smallest float above 0: `least` of a field that must not be 0
FINITE = sys.float_info.max  # integers may be larger


def bounded(default: Any, *, least: float, below: float = FINITE) -> Any:
    """A dataclass field whose numbers are finite and in [least, below)."""
    return field(default=default, metadata={"least": least, "below": below})


def share(default: float) -> Any:
    """A dataclass field with a number from 0 to 1, both included."""
    return bounded(default, least=0.0, below=math.nextafter(1.0, 2.0))


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configs.

    Raises ValueError on creation, naming field and choices, for a value of another type or out of
    range; `from_dict` also for unknown and missing fields.
    """

    __no_type_check__ = True  # of beartype in tests: the fields are checked here

    def __post_init__(self) -> None:
        for config_field in fields(self):
            name, hint = config_field.name, config_field.type
            value = getattr(self, name)
            expected = _expected_range(value, **config_field.metadata)
            if not _has_type(value, hint):
                expected = formatannotation(hint).replace("Literal", "one of ")
            if expected:
                raise ValueError(f"{name} must be {expected}, got {value!r:.60}")

    @classmethod
    def from_dict(cls, values: object) -> "Config":
        """The config that `to_dict` made `values` of; lists become tuples, dicts configs."""
        if not isinstance(values, dict):
            raise ValueError(f"{cls.__name__} must be a dict of its fields, got {values!r:.60}")
        types = {f.name: f.type for f in fields(cls)}
        parsed = {}
        for name, value in values.items():
            parsed[name] = tuple(value) if isinstance(value, list) else value
            if is_dataclass(types.get(name)):
                parsed[name] = types[name].from_dict(value)
        try:
            return cls(**parsed)
        except TypeError as error:  # names the unknown or missing fields
            raise ValueError(f"{error!s:.200}") from None

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts as JSON gives them back: tuples are lists."""
        return json.loads(json.dumps(asdict(self)))


def _has_type(value: Any, hint: Any) -> bool:
    """As isinstance, with choices and tuples; an int is a float, but a bool is not an int."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is UnionType:
        return any(_has_type(value, part) for part in parts)
    if kind is Literal:
        return value in parts
    if kind is tuple:
        return isinstance(value, tuple) and all(_has_type(item, parts[0]) for item in value)
    types = (int, float) if hint is float else hint
    return isinstance(value, types) and (hint is bool or not isinstance(value, bool))


def _expected_range(value: Any, least: float = -FINITE, below: float = FINITE) -> str:
    """The range of a field, or "" if its numbers are in it."""
    numbers = value if isinstance(value, tuple) else (value,)
    if all(least <= n < below for n in numbers if isinstance(n, int | float)):
        return ""
    start = "above 0" if least == ABOVE_ZERO else f"at least {least:g}"
    return start + (f" and below {below:g}" if below < FINITE else " and finite")
