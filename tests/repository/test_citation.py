"""CITATION.cff is valid and has the version of the package."""

from pathlib import Path

import yaml

import kdbench

ROOT = Path(__file__).parents[2]


def test_citation_has_the_required_fields_and_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert str(citation["version"]) == kdbench.__version__
    assert citation["license"] == "Apache-2.0"
    assert all({"name"} <= set(author) or {"family-names"} <= set(author) for author in citation["authors"])
