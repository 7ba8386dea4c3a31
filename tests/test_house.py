"""Limits of the code's size, and names that mean one thing."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("vocseg_lib", "benchmarks", "tools", "tests")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
PACKAGE = [path for path in FILES if path.is_relative_to(ROOT / "vocseg_lib")]
TESTS = [path for path in FILES if path.is_relative_to(ROOT / "tests")]
CORE_LINES, PACKAGE_LINES, TEST_LINES = 11_700, 18_400, 14_850
CORE = {"data", "models", "losses.py", "engine", "metrics", "failures", "utils"}


def line_count(path):
    return len(path.read_text().splitlines())


def test_no_file_is_long_and_no_folder_full():
    assert {str(path): line_count(path) for path in FILES if line_count(path) > 300} == {}
    per_folder = Counter(path.parent for path in FILES)
    assert {str(folder): count for folder, count in per_folder.items() if count > 14} == {}


def test_package_and_tests_stay_small():
    core = [path for path in PACKAGE if path.relative_to(ROOT / "vocseg_lib").parts[0] in CORE]
    assert sum(map(line_count, core)) <= CORE_LINES
    assert sum(map(line_count, PACKAGE)) <= PACKAGE_LINES
    assert sum(map(line_count, TESTS)) < TEST_LINES


def test_no_function_is_long():
    lengths = {
        f"{path}: {node.name}": node.end_lineno - node.lineno + 1
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length > 60} == {}


def test_no_public_name_is_defined_twice_in_the_package():
    defined = Counter()
    for path in PACKAGE:
        names = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            targets = (
                node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            )
            names |= {n.id for t in targets if t for n in ast.walk(t) if isinstance(n, ast.Name)}
        defined.update(name for name in names if not name.startswith("_"))
    assert {name: count for name, count in defined.items() if count > 1} == {}


def test_no_test_imports_another_test_file():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                parts = (node.module or "").split(".")
                assert not (parts[0] == "tests" and parts[-1].startswith("test_")), path
