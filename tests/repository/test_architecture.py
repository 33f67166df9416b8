"""ARCHITECTURE.md is true: its picture, its rooms, its files, and the imports between them."""

import ast
import re
from pathlib import Path

import pytest

from tools.docs import rooms

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
FILES = rooms.file_graph()
PICTURED = rooms.room_graph(FILES)


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def test_page_has_at_most_150_lines():
    assert len(PAGE.splitlines()) <= 150


def test_picture_is_fresh():
    """`python -m tools.docs.rooms` (`make docs`) draws it."""
    assert rooms.PICTURE.read_text() == rooms.picture(PICTURED)


def test_table_lists_the_rooms_in_order():
    folders = {path.name for path in rooms.PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(rooms.ROOMS)
    assert tuple(re.findall(r"^\| `(\w+)` \|", section("Rooms"), re.MULTILINE)) == rooms.ROOMS


def test_package_has_rooms_only():
    assert {path.name for path in rooms.PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_rooms_import_only_rooms_below_them():
    assert rooms.upward(PICTURED) == []


def test_no_files_import_each_other_in_a_circle():
    assert rooms.circles(FILES) == []


def test_import_reader_sees_deferred_and_type_checking_imports(tmp_path):
    package = tmp_path / "p"
    for name, text in {
        "low/a.py": "def f():\n    from p.high import b\n",
        "high/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.low.a\n",
    }.items():
        (package / name).parent.mkdir(parents=True)
        (package / name).write_text(text)
        (package / name).with_name("__init__.py").touch()
    graph = rooms.file_graph(package)
    assert graph["p.low.a"] >= {"p.high.b"}
    assert rooms.circles(graph) == [["p.high.b", "p.low.a"]]
    assert rooms.circles(rooms.room_graph(graph)) == [["high", "low"]]


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:kdbench|conf|experiments|docs|tools)/[\w./]+)`", PAGE)))
)
def test_named_files_exist(name):
    assert (ROOT / name.replace("NAME", "demo")).exists()


@pytest.mark.parametrize(("name", "file"), re.findall(r"`([\w.]+)` in `(kdbench/[\w/]+\.py)`", PAGE))
def test_named_functions_are_in_their_files(name, file):
    names = {
        node.name
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    assert set(name.split(".")) <= names


def test_flow_of_a_run_has_at_most_12_files_and_never_goes_back_up():
    """No file imports one that is entered before it, except what a plan and a record hold."""
    flow = re.findall(r"`(kdbench/[\w/]+\.py)`", section("The flow of a run").split("A first stage")[0])
    assert len(flow) <= 12
    modules = [file.removesuffix(".py").replace("/", ".") for file in flow]
    values = {"kdbench.config.compose", "kdbench.runs.plan", "kdbench.runs.record"}
    for number, module in enumerate(modules):
        assert not FILES[module] & (set(modules[:number]) - values) or module in values, module


def test_files_and_functions_stay_short():
    for path in (ROOT / "kdbench").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 500, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                assert lines <= 60, (path, node.name)
