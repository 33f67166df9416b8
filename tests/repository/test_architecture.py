"""ARCHITECTURE.md names what is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_room_is_named():
    rooms = (ROOT / "ARCHITECTURE.md").read_text().split("## Rooms")[1].split("## The flow")[0]
    package = ROOT / "kdbench"
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    folders = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").is_file()}
    groups = {f"{path.name}/" for path in (ROOT / "conf").iterdir() if path.is_dir()}
    named = set(re.findall(r"[\w]+(?:\.py|/)", rooms))
    assert modules | folders | groups <= named


def test_files_and_functions_stay_short():
    for path in (ROOT / "kdbench").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 300, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, (path, node.name)
