"""The registry: our own files, and what another package offers through an entry point."""

import subprocess
import sys
from pathlib import Path

import pytest

from kdbench import objectives
from kdbench.core import plugins as outside
from kdbench.objectives.wttm import WTTM

OUTSIDER = """
from kdbench.core import Objective, Paper

class Mine(Objective):
    paper = Paper("Mine", 2026)

    def __init__(self, strength: float = 2.0) -> None:
        super().__init__()
        self.strength = strength

class Unsigned(Objective):
    pass
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install a package `outsider` that offers `name = target`; returns the folder it lies in."""

    def put(name: str, target: str) -> Path:
        package, metadata = tmp_path / "outsider", tmp_path / "outsider-1.dist-info"
        for folder in (package, metadata):
            folder.mkdir()
        (package / "__init__.py").touch()
        (package / "mine.py").write_text(OUTSIDER)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1\n")
        (metadata / "entry_points.txt").write_text(f"[kdbench.objectives]\n{name} = {target}\n")
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    yield put
    for module in [module for module in sys.modules if module.partition(".")[0] == "outsider"]:
        del sys.modules[module]


def test_creates_with_parameters():
    objective = objectives.create("wttm", gamma=0.2)
    assert isinstance(objective, WTTM)
    assert objective.gamma == 0.2


def test_lists_what_people_ask():
    entries = {entry.name: entry for entry in objectives.available()}
    assert list(entries) == sorted(entries)
    dkd = entries["dkd"]
    assert (dkd.title, dkd.year, dkd.arxiv) == ("Decoupled Knowledge Distillation", 2022, "2203.08679")
    assert dkd.needs == ("logits", "labels")
    assert dkd.defaults == {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}
    assert entries["ttm"].defaults == {"gamma": 0.3, "transform": "power"}


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("wtm", {}, r"'wtm'; did you mean 'wttm'\? \(possible: ab, .*wttm"),
        ("zzzzz", {}, r"'zzzzz' \(possible: ab, "),
        ("kd", {"temprature": 2.0}, r"'temprature'; did you mean 'temperature'\? \(possible: temperature\)"),
        ("mse", {"weight": 2.0}, r"'weight' \(possible: none\)"),
    ],
)
def test_refuses_by_name(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        objectives.create(name, **parameters)


def test_an_outsider_is_found_and_imported_only_when_asked_for(install):
    install("mine", "outsider.mine:Mine")
    objectives.create("kd")
    assert outside.conf_dirs() == []
    assert "outsider" not in sys.modules
    assert objectives.create("mine", strength=3.0).strength == 3.0
    entry = next(entry for entry in objectives.available() if entry.name == "mine")
    assert (entry.title, entry.defaults) == ("Mine", {"strength": 2.0})
    with pytest.raises(ValueError, match=r"did you mean 'mine'\?"):
        objectives.create("mime")


def test_an_outsiders_conf_folder(install):
    root = install("mine", "outsider.mine:Mine")
    (root / "conf").mkdir()
    assert outside.conf_dirs() == [root / "conf"]
    (root / "outsider" / "conf").mkdir()
    assert outside.conf_dirs() == [root / "outsider" / "conf"]


def test_an_outsider_may_not_take_our_names(install):
    install("kd", "outsider.mine:Mine")
    with pytest.raises(ValueError, match=r"'kd' of outsider.mine:Mine is already taken by kdbench itself"):
        objectives.available()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("outsider.nowhere:Mine", "cannot be imported"),
        ("outsider.mine:Nobody", "cannot be imported"),
        ("outsider.mine:Unsigned", "with a `paper`"),
        ("outsider.mine:Paper", r"subclass of kdbench\.core\.Objective"),
    ],
)
def test_a_broken_outsider_is_named(install, target, message):
    install("mine", target)
    with pytest.raises(ValueError, match=rf"'mine' \({target}\).*{message}"):
        objectives.create("mine")


def test_importing_the_registry_is_cheap():
    code = "import sys, kdbench.objectives, kdbench.core.plugins as o; o.conf_dirs(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
