"""Configs: what their fields accept, and what an error says."""

import re
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Literal

import pytest

from vocseg_lib.utils.config import ABOVE_ZERO, Config, bounded


@dataclass(frozen=True, kw_only=True)
class Part(Config):
    optimizer: Literal["sgd", "adamw"] = "sgd"
    count: int = bounded(2, least=1)
    momentum: float = bounded(0.9, least=0, below=1)
    rate: float = bounded(0.1, least=ABOVE_ZERO)
    patience: int | None = bounded(None, least=1)
    steps: tuple[int, ...] = bounded((3,), least=1)
    flag: bool = False


@dataclass(frozen=True, kw_only=True)
class Whole(Config):
    name: str
    part: Part = field(default_factory=Part)


def test_allowed_values():
    Part(optimizer="adamw", momentum=0, rate=1, patience=5, steps=(), flag=True)
    with pytest.raises(FrozenInstanceError):
        Part().count = 3
    with pytest.raises(TypeError):
        Whole("by position")


WRONG = {
    "optimizer": [("adam", "'sgd', 'adamw'")],
    "count": [(0, "1"), (2.5, "int"), (True, "int"), (None, "int")],
    "momentum": [(1.0, "0 and below 1"), (float("nan"), "0 and below 1")],
    "rate": [(0.0, "above 0"), (float("inf"), "finite"), ("fast", "float")],
    "patience": [(0, "1"), ("long", "int | None")],
    "steps": [(5, "tuple[int, ...]"), (("a",), "tuple[int, ...]"), ((0,), "1")],
    "flag": [(1, "bool")],
}


@pytest.mark.parametrize("name", WRONG)
def test_an_error_names_field_value_and_choices(name):
    for value, expected in WRONG[name]:
        parts = f"^{name} ", re.escape(expected), re.escape(repr(value))
        with pytest.raises(ValueError, match=".*".join(parts)):
            Part(**{name: value})


def test_dicts_and_back():
    whole = Whole(name="a", part=Part(steps=(1, 2)))
    values = whole.to_dict()
    assert values["part"]["steps"] == [1, 2]
    assert Whole.from_dict(values) == whole
    assert Whole.from_dict({"name": "b"}).part == Part()
    wrong = {"size": {"name": "a", "size": 1}, "counts": {"name": "a", "part": {"counts": 1}}}
    for field_name, values in ({"name": {}} | wrong).items():
        with pytest.raises(ValueError, match=field_name):
            Whole.from_dict(values)
