import json
from pathlib import Path

import pytest

from kdbench.cli.list import groups, losses, main, models, objectives
from kdbench.models.names import available
from kdbench.utils.paths import CONF_DIR
from tools.docs.objectives import LIMIT, list_of_losses, load_measured, page

ROOT = Path(__file__).parents[2]


def test_every_loss_is_listed_with_its_paper_and_needs():
    rows = {row["loss"]: row for row in losses()}
    assert set(rows) == {file.stem for file in (CONF_DIR / "loss").glob("*.yaml")}
    assert rows["wttm"]["arXiv"] == "2402.11148"
    assert rows["abkd"]["arXiv"] == "2505.04560"
    assert rows["dkd"]["needs"] == "logits, labels"
    assert rows["dkd"]["task"] == "images, lm"
    assert rows["crd"]["task"] == "images"
    assert rows["finetune"]["task"] == rows["dss_mi"]["task"] == "rationale"
    assert all(row["recipe"] and row["task"] for row in rows.values())


def test_the_pages_that_list_losses_are_up_to_date():
    """`make docs` writes them."""
    readme = (ROOT / "README.md").read_text()
    assert (
        readme.split("<!-- python scripts/render_objectives.py -->\n")[1].split("\n<!-- end -->")[0]
        == list_of_losses()
    )
    measured = load_measured(ROOT / "benchmarks" / "objectives.json")
    assert (ROOT / "docs" / "objectives.md").read_text() == page(measured)


def test_every_objective_is_measured_and_only_heavy_ones_are_expensive():
    measured = {
        row["objective"]: row for row in load_measured(ROOT / "benchmarks" / "objectives.json")["rows"]
    }
    entries = {entry["name"]: entry for entry in objectives() if "images" in entry["tasks"]}
    assert set(measured) == set(entries)
    for name, row in measured.items():
        assert (max(row["share_100"], row["share_1000"]) > LIMIT) == bool(entries[name]["high_cost"]), name


def test_every_loss_and_objective_is_in_the_documentation():
    text = (ROOT / "docs" / "objectives.md").read_text()
    for entry in objectives():
        assert f"### {entry['name']}\n" in text
        assert entry["formula"] in text
    assert all(f"| {row['loss']} |" in text for row in losses())


def test_models_are_listed_with_their_size():
    assert {row["model"]: row["parameters"] for row in models()}["resnet8x4"] == 1_233_540
    assert len(models()) == len(available())


@pytest.mark.parametrize("what", ["losses", "objectives", "datasets", "teachers", "tables"])
def test_every_list_is_json_too(what, capsys):
    assert main([what, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert all(isinstance(row, dict) for row in rows)


def test_help_names_groups_and_options():
    text = groups()
    for words in (
        "dataset: ",
        "cifar100_mini",
        "loss: ",
        "wttm",
        "schedule: ",
        "cifar240",
        "experiment: ",
        "mini",
    ):
        assert words in text
