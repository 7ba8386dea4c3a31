"""Configs: what their fields accept, and what an error says."""

from dataclasses import FrozenInstanceError, dataclass, field
from typing import Literal

import pytest

from vocseg_lib.utils.config import ABOVE_ZERO, Config, bounded, parse_assignments


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
    part = Part(optimizer="adamw", momentum=0, rate=1, patience=5, steps=(), flag=True)
    assert (part.momentum, part.rate, part.steps) == (0, 1, ())
    with pytest.raises(FrozenInstanceError):
        part.count = 3
    with pytest.raises(TypeError):
        Whole("by position")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("optimizer", "adam", "'sgd', 'adamw'"),
        ("count", 0, "1"),
        ("count", 2.5, "int"),
        ("count", True, "int"),
        ("count", None, "int"),
        ("momentum", 1.0, "0 and below 1"),
        ("momentum", float("nan"), "0 and below 1"),
        ("rate", 0.0, "above 0"),
        ("rate", float("inf"), "finite"),
        ("rate", "fast", "float"),
        ("patience", 0, "1"),
        ("patience", "long", "int | None"),
        ("steps", 5, "tuple[int, ...]"),
        ("steps", ("a",), "tuple[int, ...]"),
        ("steps", (0,), "1"),
        ("flag", 1, "bool"),
    ],
)
def test_an_error_names_field_value_and_choices(name, value, expected):
    with pytest.raises(ValueError, match=f"^{name} ") as raised:
        Part(**{name: value})
    assert expected in str(raised.value)
    assert repr(value) in str(raised.value)


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


def test_assignments_as_text():
    texts = {
        "short_side=550": 550,
        "learning_rate=1e-3": 1e-3,
        "patience=None": None,
        "lr_milestones=(1, 2)": (1, 2),
        "mixed_precision=True": True,
        "weights=a/b.pth": "a/b.pth",
    }
    names = [text.split("=")[0] for text in texts]
    assert parse_assignments(texts, names) == dict(zip(names, texts.values(), strict=True))
    for wrong in ("short_side", "size=3", "=3"):
        with pytest.raises(ValueError, match=wrong) as raised:
            parse_assignments([wrong], names)
        assert all(name in str(raised.value) for name in names)
