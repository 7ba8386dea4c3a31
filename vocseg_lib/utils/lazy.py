"""Names of a package that are imported from its submodules when they are first used."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def attach(package: str, modules: dict[str, str]) -> tuple[Callable[[str], Any], list[str]]:
    """A package's `__getattr__` and `__all__`, of names (separated by spaces) by submodule."""
    sources = {name: module for module, names in modules.items() for name in names.split()}

    def getattr_from_submodule(name: str) -> Any:
        if name not in sources:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{sources[name]}"), name)

    return getattr_from_submodule, sorted(sources)
