"""Files of published numbers: their schema, and the committed ones."""

import pytest

from kdbench.models.names import available
from kdbench.reports.published import networks, published_for, published_names
from kdbench.tables.definition import load_table, tables
from kdbench.utils.paths import EXPERIMENTS_DIR


@pytest.mark.parametrize("name", published_names())
def test_published_values_belong_to_cells_of_their_table(name):
    published = published_for(name)
    assert published.values or published.note
    if name not in tables():
        assert (EXPERIMENTS_DIR / "literature" / name).is_dir(), "published numbers without a grid"
        return
    table = load_table(name, [])
    keys = [(value.dataset, value.pair, value.loss, value.protocol) for value in published.values]
    assert len(set(keys)) == len(keys)
    for value in published.values:
        assert value.pair in table.pairs
        assert value.loss in table.losses
        assert 0 < value.mean < 100


def test_a_grid_is_read_as_values(tmp_path, monkeypatch):
    monkeypatch.setattr("kdbench.reports.published.EXPERIMENTS_DIR", tmp_path)
    (tmp_path / "t").mkdir()
    about = "source: s\nstatus: verified\nselection: last epoch\nepochs: 240\ngrid:\n  dataset: cifar100\n"
    rows = "  mean: {kd: [70.5, null], at: [70.0, 71.0]}\n  std: {kd: [0.2, null]}\n  trials: {kd: 5}\n"
    file = tmp_path / "t" / "published.yaml"
    file.write_text(f"{about}  pairs: ['a:b', 'a:c']\n{rows}  selections: {{at: best epoch}}\n")
    values = published_for("t").values
    assert [(value.pair, value.loss, value.text) for value in values] == [
        ("a:b", "kd", "70.50 ± 0.20 (n = 5)"),
        ("a:b", "at", "70.00 (best epoch)"),
        ("a:c", "at", "71.00 (best epoch)"),
    ]
    file.write_text(f"{about}  pairs: ['a:b']\n{rows}")
    with pytest.raises(ValueError, match=r"t/published.yaml, grid: kd has 2 numbers for 1 pairs"):
        published_for("t")


def test_a_mistake_in_published_numbers_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("kdbench.reports.published.EXPERIMENTS_DIR", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "published.yaml").write_text("source: s\nvalues:\n  - {pair: a:b, means: 3}\n")
    with pytest.raises(ValueError, match=r"mine/published.yaml.*means"):
        published_for("mine")
    assert published_for("other") is None


@pytest.mark.parametrize(
    "file", sorted((EXPERIMENTS_DIR / "networks").glob("*.yaml")), ids=lambda file: file.stem
)
def test_published_networks_exist(file):
    published = networks(file.stem)
    assert published.dataset == file.stem
    assert set(published.top1) <= set(available())
    assert published.status == "verified"


def test_a_mistake_in_published_networks_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("kdbench.reports.published.EXPERIMENTS_DIR", tmp_path)
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks" / "mine.yaml").write_text("dataset: mine\ntop5: {}\n")
    with pytest.raises(ValueError, match=r"networks/mine.yaml.*top5"):
        networks("mine")
    assert networks("other") is None
