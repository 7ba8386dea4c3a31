"""Configs: frozen dataclasses whose fields are checked when they are made."""

import ast
import dataclasses
import math
from collections.abc import Collection, Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

ABOVE_ZERO = math.ulp(0.0)
"""The smallest float above 0, as `least` of a field that must not be 0."""


def bounded(default: Any, *, least: float, below: float = math.inf) -> Any:
    """A dataclass field whose numbers are finite and in [least, below)."""
    return dataclasses.field(default=default, metadata={"least": least, "below": below})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configs.

    Raises:
        ValueError: on creation, naming field and choices, for a value of another type or out of
            range; `from_dict` also for unknown and missing fields.
    """

    __no_type_check__ = True  # of beartype in tests: the fields are checked here

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            problem = _wrong_type(value, field.type) or _out_of_range(value, **field.metadata)
            if problem:
                raise ValueError(f"{field.name} must be {problem}, got {value!r}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """The config that `to_dict` made `values` of; lists become tuples, dicts configs."""
        known = {field.name: field for field in fields(cls)}
        required = {n for n, f in known.items() if f.default is f.default_factory is MISSING}
        problems = {"unknown": values.keys() - known, "missing": required - values.keys()}
        for problem, names in problems.items():
            if names:
                raise ValueError(f"{problem} in a {cls.__name__}: {', '.join(sorted(names))}")
        return cls(**{name: _parsed(value, known[name].type) for name, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Nested dicts as JSON gives them back: tuples are lists."""
        return _plain(dataclasses.asdict(self))


def parse_assignments(assignments: Iterable[str], names: Collection[str]) -> dict[str, Any]:
    """Values by name from texts like "short_side=550". Raises ValueError for any other text."""
    values = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in names:
            raise ValueError(f"{assignment!r} must be NAME=VALUE with one of {', '.join(names)}")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values


def _wrong_type(value: Any, hint: Any) -> str:
    """What a value should be, or "" if it is."""
    if get_origin(hint) is UnionType:
        problems = [_wrong_type(value, part) for part in get_args(hint)]
        return "" if "" in problems else " or ".join(problems)
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return "" if value in choices else f"one of {', '.join(map(repr, choices))}"
    if get_origin(hint) is tuple:
        part = get_args(hint)[0]
        fits = isinstance(value, tuple) and not any(_wrong_type(item, part) for item in value)
        return "" if fits else f"a tuple of {part.__name__}"
    if hint is NoneType:
        return "" if value is None else "None"
    types = (int, float) if hint is float else hint
    fits = isinstance(value, types) and (hint is bool or not isinstance(value, bool))
    return "" if fits else f"of type {hint.__name__}"


def _out_of_range(value: Any, least: float = -math.inf, below: float = math.inf) -> str:
    numbers = value if isinstance(value, tuple) else (value,)
    if all(least <= n < below for n in numbers if isinstance(n, int | float)):
        return ""
    start = "above 0" if least == ABOVE_ZERO else f"at least {least:g}"
    return start + (f" and below {below:g}" if below < math.inf else " and finite")


def _parsed(value: Any, hint: Any) -> Any:
    if is_dataclass(hint):
        return hint.from_dict(value)
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
