"""YAML files as dataclasses."""

from dataclasses import dataclass, field

import pytest

from kdbench.utils.typed_yaml import read_typed


@dataclass
class Part:
    name: str
    size: float = 1.0


@dataclass
class Whole:
    title: str
    count: int = 0
    note: str | None = None
    parts: list[Part] = field(default_factory=list)
    rows: dict[str, list[float | None]] = field(default_factory=dict)


def read(tmp_path, text: str) -> Whole:
    (tmp_path / "file.yaml").write_text(text)
    return read_typed(Whole, tmp_path / "file.yaml")


def test_values_have_the_declared_types(tmp_path):
    whole = read(
        tmp_path, "title: t\ncount: 2\nnote: null\nparts:\n  - {name: a, size: 3}\nrows: {x: [1, null]}\n"
    )
    assert whole == Whole("t", 2, None, [Part("a", 3.0)], {"x": [1.0, None]})
    assert isinstance(whole.parts[0].size, float)
    assert read(tmp_path, "title: t\n") == Whole("t")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count: 2\n", r"file.yaml, title: missing"),
        ("title: t\ncuont: 2\n", r"file.yaml, cuont: unknown key; possible: title, count"),
        ("title: t\ncount: two\n", r"file.yaml, count: expected int, got 'two'"),
        ("title: t\ncount: true\n", r"file.yaml, count: expected int, got True"),
        ("title: t\nparts:\n  - {name: a, zise: 3}\n", r"file.yaml, parts\[0\].zise: unknown key"),
        ("title: t\nrows: {x: [a]}\n", r"file.yaml, rows.x\[0\]: expected float, got 'a'"),
        ("title: t\nparts: {}\n", r"file.yaml, parts: expected list, got {}"),
        ("- a\n", r"file.yaml, expected dict"),
        ("title: [\n", r"file.yaml is not YAML"),
    ],
)
def test_mistakes_name_file_and_key(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)
