"""Configs: frozen dataclasses whose fields are checked when they are made."""

import dataclasses
import math
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints


def bounded(default: Any = MISSING, *, least: float = -math.inf, below: float = math.inf) -> Any:
    """A dataclass field whose numbers are finite and in [least, below)."""
    return dataclasses.field(default=default, metadata={"least": least, "below": below})


POSITIVE = 5e-324
"""The smallest float above 0, as `least` of a field that must not be 0."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configs.

    Raises:
        ValueError: on creation, naming the field, for a value of another type or out of range;
            `from_dict` also for unknown and missing fields.
    """

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            if problem := _problem(value, hints[field.name]) or _out_of_range(
                value, field.metadata
            ):
                raise ValueError(f"{field.name} is {value!r}: it must be {problem}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """The config that `to_dict` made `values` of; lists become tuples, dicts configs."""
        hints = get_type_hints(cls)
        known = {field.name for field in fields(cls)}
        required = {f.name for f in fields(cls) if f.default is f.default_factory is MISSING}
        if wrong := sorted(values.keys() - known) or sorted(required - values.keys()):
            raise ValueError(f"{cls.__name__} and {', '.join(wrong)} do not go together")
        return cls(**{name: _parsed(value, hints[name]) for name, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts as JSON gives them back: tuples are lists."""
        return _plain(dataclasses.asdict(self))


def _problem(value: Any, hint: Any) -> str:
    """What a value should be of, or "" when it is."""
    if get_origin(hint) is UnionType:
        problems = [_problem(value, part) for part in get_args(hint)]
        return "" if "" in problems else " or ".join(problems)
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return "" if value in choices else f"one of {', '.join(map(repr, choices))}"
    if get_origin(hint) is tuple:
        part = get_args(hint)[0]
        fits = isinstance(value, tuple) and not any(_problem(item, part) for item in value)
        return "" if fits else f"a tuple of {part.__name__}"
    if hint is NoneType:
        return "" if value is None else "None"
    kinds = (int, float) if hint is float else (hint,)
    fits = isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))
    return "" if fits else f"of type {hint.__name__}"


def _out_of_range(value: Any, bounds: Any) -> str:
    numbers = value if isinstance(value, tuple) else (value,)
    least, below = bounds.get("least", -math.inf), bounds.get("below", math.inf)
    if all(least <= n < below for n in numbers if isinstance(n, int | float)):
        return ""
    start = "above 0" if least == POSITIVE else f"at least {least:g}"
    return start + (f" and below {below:g}" if below < math.inf else " and finite")


def _parsed(value: Any, hint: Any) -> Any:
    if is_dataclass(hint):
        return hint.from_dict(value)
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
