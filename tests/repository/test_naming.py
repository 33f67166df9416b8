"""Identifiers and module names that must not come back: each had a term of the field in its place."""

import io
import keyword
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("kdbench", "tests", "tools", "scripts", "examples", "benchmarks")

IDENTIFIERS = {
    "taps": "features",
    "tap": "feature",
    "tapped": "features",
    "bind": "setup",
    "survey": "extra_forward",
    "surveys": "extra_forwards",
    "Facts": "DatasetInfo",
    "Begun": "StepContext",
    "Crew": "JobScheduler",
    "Race": "InterleavedTimer",
    "Filling": "CacheWriter",
    "Course": "ChunkLoader",
    "Hidden": "ProjectedLogits",
    "TopK": "TopKLogits",
    "Meter": "Metric",
    "meters": "metrics",
    "likeliest": "top_k",
    "LikeliestTeacher": "TopKTeacher",
    "Member": "PreparedRun",
    "taught": "teacher",
    "beside": "published",
    "further": "additional",
    "quoted": "published",
    "ahead": "precompute",
    "departures": "recipe_diff",
    "siblings": "series",
    "membership": "PreparedRun",
    "pieces": "chunks",
    "in_pieces": "in_chunks",
    "apart": "separate_losses",
    "planned": "plan",
    "draws_images": "needs_class_balanced_images",
}
"""Banned identifiers, and what is written instead."""

MODULES = (
    "watch crew race sides verdict bare canvas cam tracking listing caching outside strict explain units machine ranks "
    "liger maps patterns terms policy catalog cost folding likeliest views fill member membership"
).split()

ALLOWED = {
    "bind": ("kdbench/distributed/launch.py", "tests/distributed/test_launch.py"),  # of a socket
    "further": ("kdbench/data/text/instructions.py", "kdbench/data/identity.py"),  # an option of a data set
}

FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def identifiers(source: str) -> set[str]:
    """Return the names in a source file, without strings, comments and keywords."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.string
        for token in tokens
        if token.type == tokenize.NAME and not keyword.iskeyword(token.string)
    }


def banned(source: str, file: str = "") -> set[str]:
    names = identifiers(source)
    return {name for name in names & IDENTIFIERS.keys() if file not in ALLOWED.get(name, ())}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_banned_identifier(folder):
    found = {}
    for path in FILES:
        name = str(path.relative_to(ROOT))
        if (
            name.startswith(f"{folder}/")
            and path != Path(__file__)
            and (hits := banned(path.read_text(), name))
        ):
            found[name] = {hit: IDENTIFIERS[hit] for hit in hits}
    assert found == {}


def test_no_banned_module():
    assert [path for path in (ROOT / "kdbench").rglob("*.py") if path.stem in MODULES] == []


def test_the_check_finds_names_and_only_names():
    assert banned("self.taps = taught  # beside\n") == {"taps", "taught"}
    assert banned("text = 'taps of further models'\n") == set()
    assert banned("taps_of = 1\n") == set()
