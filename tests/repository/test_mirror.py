"""tests/ mirrors the rooms: the tests of kdbench/ROOM/MODULE.py are tests/ROOM/test_MODULE[_topic].py."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OTHER_FOLDERS = {"integration", "repository", "helpers"}
"""Tests of several rooms, of the repository, and what tests share."""


def modules(folder: Path) -> set[str]:
    """Return the modules of a room, and its own name, which stands for its `__init__.py`."""
    return {path.stem for path in folder.glob("*.py")} - {"__init__"} | {folder.name}


def is_mirrored(test: Path, root: Path = ROOT) -> bool:
    relative = test.relative_to(root / "tests")
    name = test.stem.removeprefix("test_")
    room = root / "kdbench" / relative.parent
    return room.is_dir() and any(name == one or name.startswith(f"{one}_") for one in modules(room))


TESTS = [
    path
    for path in sorted((ROOT / "tests").rglob("test_*.py"))
    if path.relative_to(ROOT / "tests").parts[0] not in OTHER_FOLDERS
]


@pytest.mark.parametrize("test", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_test_file_lies_beside_its_module(test):
    assert is_mirrored(test)


def test_every_room_has_tests():
    rooms = {path.name for path in (ROOT / "kdbench").iterdir() if (path / "__init__.py").is_file()}
    assert rooms <= {path.name for path in (ROOT / "tests").iterdir()}


def test_the_check_finds_strays(tmp_path):
    for name in ("kdbench/room/module.py", "tests/room/test_module_topic.py", "tests/room/test_other.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert is_mirrored(tmp_path / "tests/room/test_module_topic.py", tmp_path)
    assert not is_mirrored(tmp_path / "tests/room/test_other.py", tmp_path)
