"""Tables: aggregation on made-up records, and one small real table."""

import json

import pytest
import torch

from kdbench.cli.table import _without_places, main, summarise
from kdbench.models.checkpoints import save_weights
from kdbench.models.registry import create_model
from kdbench.reports.published import Published, Value, published_for
from kdbench.reports.rows import columns, value_beside
from kdbench.reports.table_page import markdown, teacher_lines
from kdbench.runs.hydra_setup import register
from kdbench.tables.grid import Table, cells, found, load_table, overrides_of, tables, with_teachers
from kdbench.tables.teachers import needed
from kdbench.utils.paths import EXPERIMENTS_DIR

register()


def record(loss: str, top1: float, state: str = "done", seed: int = 0) -> dict:
    return {
        "names": {"dataset": "", "teacher": "a", "student": "b", "loss": loss},
        "seed": seed,
        "hashes": {},
        "state": state,
        "results": {
            "last": {"top1": top1, "agreement": 50.0, "epoch": None},
            "best_on_test": {"top1": top1 + 1},
        },
        "seconds": 10.0,
        "teacher": {"name": "a", "top1": 60.0},
        "machine": {"processor": "p", "cpus": 2},
        "threads": 1,
        "versions": {"torch": "t"},
        "commit": "c",
    }


def test_mean_std_and_n_over_finished_seeds():
    records = [record("ce", 10), record("kd", 20), record("ce", 14), record("ce", 99, "failed")]
    ce, kd = summarise(records)
    assert (ce.mean, ce.scores, ce.best) == (12, [10, 14], [11, 15])
    assert (kd.mean, kd.scores) == (20, [20])
    page = markdown(load_table("demo", []), records, "kdbench table demo")
    assert "| a -> b | ce | 12.00 ± 2.83 | 2 | 13.00 | 50.0 | 10 |" in page
    assert "| a -> b | kd | 20.00 | 1 |" in page
    assert "Teacher a: 60.00 % test top-1." in page
    assert "Made by `kdbench table demo` on p, 2 CPUs" in page


def test_a_loss_that_answers_with_more_than_the_student_is_said():
    records = [record("kd", 20), {**record("simkd", 30), "parameters": {"student": 1000, "at_test": 1500}}]
    page = markdown(load_table("demo", []), records, "kdbench table demo")
    assert "simkd answers with 1,500 parameters, the student has 1,000." in page
    assert "kd answers" not in page.replace("simkd answers", "")


def test_paired_comparisons_from_three_seeds_on():
    def page_of(seeds: int) -> str:
        made = [
            record(loss, top1 + seed**2, seed=seed)
            for seed in range(seeds)
            for loss, top1 in (("ce", 10), ("kd", 20))
        ]
        made = [
            {**one, "results": {**one["results"], "last": {**one["results"]["last"], "top1": top1}}}
            for one, top1 in zip(made, (10.0, 11.0, 10.0, 12.0, 10.0, 13.0), strict=False)
        ]
        return markdown(load_table("demo", []), made, "kdbench table demo")

    assert "Paired comparisons" not in page_of(2)
    assert "| kd - ce | last top-1 | 3 | +2.00 | -0.48 to +4.48 | 0.074 | 0.074 | 0.250 | 0.250 |" in page_of(
        3
    )


def under(protocol: str, top1: float = 50.0, variant: str = "", **scores: float) -> dict:
    made = record("kd", top1) | {"protocol": protocol, "variant": variant}
    made["results"]["last"] |= scores
    made["names"] |= {"dataset": "cifar100"}
    return made


def table_of(records: list[dict]) -> tuple[str, list[str]]:
    """The page, and the lines of its table."""
    page = markdown(load_table("demo", []), records, "kdbench table demo")
    return page, [line for line in page.splitlines() if line.startswith("|")]


def test_records_for_others_do_not_say_where_this_machine_keeps_things():
    config = {
        "output": "/mine",
        "dataset": {"path": "/mine", "size": 3},
        "teacher": {"checkpoint": "/mine"},
        "seed": 0,
    }
    assert _without_places({"config": config, "seed": 0}) == {
        "config": {"dataset": {"size": 3}, "teacher": {}, "seed": 0},
        "seed": 0,
    }
    assert config["output"] == "/mine"
    assert _without_places({"seed": 0}) == {"seed": 0}


def test_one_protocol_is_in_the_title_and_in_the_footer():
    page, lines = table_of([under("label noise 40 % (seed 0)"), under("label noise 40 % (seed 0)")])
    assert page.splitlines()[0].endswith("of CIFAR-100 (label noise 40 % (seed 0))")
    assert "Protocols: label noise 40 % (seed 0)." in page
    assert "protocol" not in lines[0]


def test_protocols_are_never_mixed():
    page, lines = table_of(
        [under("stratified 5 % (seed 0)", 50), under(""), under("stratified 5 % (seed 0)", 52)]
    )
    assert page.splitlines()[0].endswith("(several protocols)")
    assert lines[0].startswith("| pair | protocol | loss |")
    assert "| a -> b | stratified 5 % (seed 0) | kd | 51.00 ± 1.41 | 2 |" in lines[2]
    assert "| a -> b | the data as they are | kd | 50.00 | 1 |" in lines[3]
    assert "Protocols: stratified 5 % (seed 0) | the data as they are." in page
    plain, _ = table_of([record("kd", 20)])
    assert "rotocol" not in plain


def test_groups_of_classes_are_columns_where_a_protocol_has_them():
    omitted = [under("without classes 9 (loop)", omitted=value, kept=60.0) for value in (1.0, 3.0)]
    _, lines = table_of([*omitted, under("imbalance 10 (seed 0)", head=70.0, medium=40.0, tail=9.0)])
    assert lines[0] == (
        "| pair | protocol | loss | last top-1 % | n | omitted % | kept % | head % | medium % | tail % | "
        "best_on_test % | agreement % | training s |"
    )
    assert "| 50.00 ± 0.00 | 2 | 2.00 ± 1.41 | 60.00 ± 0.00 |  |  |  | 51.00 |" in lines[2]
    assert "| 50.00 | 1 |  |  | 70.00 | 40.00 | 9.00 | 51.00 |" in lines[3]


def test_a_variant_is_a_column_unless_the_protocol_says_which_it_is():
    fast, slow = under("", variant="fast"), under("", variant="slow")
    _, lines = table_of([fast, slow])
    assert lines[0].startswith("| pair | variant | loss |")
    assert lines[2].startswith("| a -> b | fast | kd |")
    _, lines = table_of([under("first 5 %", variant="5%"), under("first 10 %", variant="10%")])
    assert lines[0].startswith("| pair | protocol | loss |")


PUBLISHED = Published(
    source="somebody's log",
    status="derived",
    selection="best epoch",
    epochs=240,
    note="On another order.",
    values=[
        Value("cifar100", "a:b", "kd", "first 5 %, repeated", 52.3, 0.23, 5),
        Value("cifar100", "a:b", "kd", "first 1 %, repeated", 17.53, 0.0, 1),
    ],
)


def test_a_published_value_stands_beside_its_own_protocol_alone(monkeypatch):
    monkeypatch.setattr("kdbench.reports.table_page.published_for", lambda name: PUBLISHED)
    others = ("stratified 5 % (seed 0), repeated", "first 5 %")
    first = ("first-of-this-order 5 %, repeated", "first 1 %, repeated")
    records = [under(first[0], epoch=240), under(first[1], epoch=2), *map(under, others)]
    records.append(under("first 5 %, repeated", epoch=240))
    page, lines = table_of([*records, {**records[0], "names": {**records[0]["names"], "dataset": "cifar10"}}])
    assert "| best_on_test % | published % (best epoch) | delta | z | agreement % |" in lines[0]
    assert (
        "| 51.00 | 52.30 ± 0.23 (n = 5); here other images (first-of-this-order 5 %, repeated) | - | - |"
        in lines[2]
    )
    assert "| 51.00 | 17.53 (n = 1), 240 epochs | - | - |" in lines[3]
    assert "| 51.00 | 52.30 ± 0.23 (n = 5) | -1.30 | - | 50.0 |" in lines[6]  # one seed: no z
    assert all("| 51.00 |  |  |  | 50.0 |" in line for line in (lines[4], lines[5], lines[7]))
    assert len(lines) == 8
    assert "Published (derived, 240 epochs): somebody's log. On another order." in page


def test_no_published_column_where_nothing_compares():
    rows = summarise([under("stratified 5 % (seed 0)")])
    assert not [column for column in columns(rows, PUBLISHED) if "published" in column.heading]


def test_the_published_few_shot_values_fit_the_protocols_of_the_table():
    """KD at 5 %: the headline gain of the abstract, 5.72 points."""
    published = published_for("mcmi-fewshot")
    table = load_table("mcmi-fewshot", [])
    protocols = {f"first {name.replace('%', ' %')}, repeated" for name in table.variants}
    assert {value.protocol for value in published.values} == protocols - {"first 35 %, repeated"}
    assert {value.loss for value in published.values} == set(table.losses)
    row = summarise([under("first-of-this-order 5 %, repeated")])[0]
    found = [
        value_beside(row.__class__(**{**vars(row), "pair": pair}), published).mean
        for pair in ("resnet56:resnet20", "resnet56@mcmi-0.15:resnet20")
    ]
    assert found == [52.30, 58.02]


def test_a_published_file_with_a_mistake_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("kdbench.reports.published.EXPERIMENTS_DIR", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "published.yaml").write_text("source: s\nvalues:\n  - {pair: a:b, means: 3}\n")
    with pytest.raises(ValueError, match=r"mine/published.yaml.*means"):
        published_for("mine")
    assert published_for("other") is None


def test_variants_are_an_axis_of_the_grid(tmp_path):
    (tmp_path / "teacher.pth").write_bytes(b"")
    checkpoint = f"teacher.checkpoint={tmp_path / 'teacher.pth'}"
    grid = cells(
        load_table(
            "mcmi-fewshot",
            ["pairs=resnet56:resnet20", "variants=5%,10%", "losses=kd", "seeds=0,1", checkpoint],
        )
    )
    assert [(cell.seed, cell.variant) for cell in grid] == [(0, "5%"), (0, "10%"), (1, "5%"), (1, "10%")]
    assert "dataset.subset.fraction=0.05" in grid[0].overrides
    assert grid[0].title == "kd, resnet56 -> resnet20, 5%, seed 0"
    assert len({cell.key for cell in grid}) == 4


def test_a_teacher_is_looked_for_in_the_label_space_of_each_variant(tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path))
    for space in ("cifar10", "cifar100"):
        (tmp_path / "teachers" / space).mkdir(parents=True)
        (tmp_path / "teachers" / space / "resnet56.safetensors").write_bytes(space.encode())
    pair = "pairs=resnet56:resnet20"
    grid = cells(load_table("omitted-classes", [pair, "variants=cifar10-9,cifar100-9", "seeds=0"]))
    assert len({cell.key for cell in grid}) == 2
    (tmp_path / "teachers" / "cifar10" / "resnet56.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"no teacher resnet56 for cifar10.*\n.*train-teacher dataset=cifar10"
    ):
        cells(load_table("omitted-classes", [pair, "variants=cifar10-9", "seeds=0", "teachers=refuse"]))


@pytest.mark.parametrize(
    "page", sorted(EXPERIMENTS_DIR.glob("*/README.md")), ids=lambda page: page.parent.name
)
def test_committed_pages_are_what_their_records_say(page):
    """A number in a page that no record has, or a page older than its table's words, fails here."""
    head, *records = [json.loads(line) for line in (page.parent / "results.jsonl").read_text().splitlines()]
    table, missing = load_table(page.parent.name, []), head.get("missing", [])
    assert page.read_text() == markdown(table, records, head["command"], missing)


def test_readme_shows_a_committed_page():
    page = (EXPERIMENTS_DIR / "cifar100-quick" / "README.md").read_text()
    rows = [line for line in page.partition("## Paired")[0].splitlines() if line.startswith("|")]
    assert "\n".join(rows) in (EXPERIMENTS_DIR.parent / "README.md").read_text()


def test_the_demo_is_the_promised_grid():
    table = load_table("demo", [])
    assert len(cells(table)) == 14
    assert {cell.pair for cell in cells(table)} == {"resnet20:resnet8"}
    assert "not a ranking" in table.caption


def test_cells_are_chosen_on_the_command_line():
    table = load_table(
        "demo", ["losses=ce,kd", "seeds=3", "pairs=resnet20:resnet14", "schedule.epochs=1", "jobs=1"]
    )
    assert [(c.pair, c.loss, c.seed) for c in cells(table)] == [
        ("resnet20:resnet14", loss, 3) for loss in ("ce", "kd")
    ]
    assert "schedule.epochs=1" in table.further


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demmo"], ["there is no table 'demmo'", "did you mean 'demo'"]),
        (["demo", "losses=nope"], ["no loss=nope"]),
        (["demo", "seeds=x"], ["seeds", "'x'"]),
        (["demo", "pairs=resnet20"], ["TEACHER:STUDENT"]),
        (["demo", "schedule.epohcs=2"], ["did you mean 'epochs'"]),
        (["demo", "kd"], ["'kd' is not KEY=VALUE"]),
        (["demo", "seeds=0,0"], ["seeds=0,0", "once"]),
        (["demo", "seed=3"], ["seeds=..."]),
        (["demo", "jobs=0"], ["jobs must be at least 1"]),
        (["demo", "teachers=yes"], ["teachers=yes; possible: train, refuse"]),
        (["demo", "retries=-1"], ["retries=-1"]),
        (["mcmi-fewshot", "variants=6%"], ["there is no variant '6%'", "0.5%, 1%, 10%"]),
        (["demo", "variants=5%"], ["there is no variant '5%'"]),
        (["demo", "pairs=:resnet8"], ["TEACHER:STUDENT"]),
        ([], ["kdbench table NAME", "demo"]),
    ],
)
def test_mistakes_are_said_before_anything_runs(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in message
    assert not list(tmp_path.iterdir())


def test_what_was_published_stands_beside_its_row():
    pair = "vgg13@mcmi-0.2:vgg8"
    names = {"teacher": "vgg13@mcmi-0.2", "student": "vgg8", "dataset": "cifar100"}
    teacher = {"name": names["teacher"], "top1": 74.5, "nll": 1.0, "cmi": 0.25}
    made = [
        {**record(loss, 70), "names": {**names, "loss": loss}, "teacher": teacher}
        for loss in ("kd", "at", "wttm")
    ]
    page = markdown(load_table("mcmi-lambda", []), made, "kdbench table mcmi-lambda")
    rows = [line for line in page.splitlines() if line.startswith("| vgg13@mcmi-0.2 -> vgg8")]
    beside = [line.split("|")[-4].strip() for line in rows]
    # the made-up rows say nothing of their epochs, so the published value says its own
    assert beside == ["73.91 (n = 1; ce 0.2, kd 0.8), 240 epochs", "71.98 (n = 1), 240 epochs", ""], pair
    assert "| published % (best epoch on test) |" in page
    assert "Published (verified, 240 epochs): the lambda sweep of github.com/iclr2024mcmi/ICLRMCMI" in page
    assert (
        "Teacher vgg13@mcmi-0.2: 74.50 % test top-1, cross-entropy on test 1.0000 nats, CMI on the training images "
        "0.2500 nats." in page
    )


@pytest.mark.parametrize(
    "file", sorted(EXPERIMENTS_DIR.glob("*/published.yaml")), ids=lambda file: file.parent.name
)
def test_published_values_are_of_cells_of_their_table(file):
    published = published_for(file.parent.name)
    assert published.values or published.note
    if file.parent.name not in tables():
        return  # what others published that no run of ours can have
    table = load_table(file.parent.name, [])
    keys = [(value.dataset, value.pair, value.loss, value.protocol) for value in published.values]
    assert len(set(keys)) == len(keys)
    for value in published.values:
        assert value.pair in table.pairs
        assert value.loss in table.losses
        assert 0 < value.mean < 100


def test_a_printed_grid_is_its_values(tmp_path, monkeypatch):
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


def test_variants_and_ensembles_are_pairs(tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path))
    from kdbench.teachers.store import stored

    for seed, variant in enumerate(("a", "b")):
        torch.manual_seed(seed)
        path = stored("cifar100", f"resnet20@{variant}")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(create_model("resnet20", 100), path, {})
    pairs = "pairs=resnet20@a:resnet8,resnet20@b:resnet8,resnet20@a+resnet20@b:resnet8"
    table = load_table("demo", [pairs, "losses=kd", "seeds=0"])
    table.overrides.remove("teacher.checkpoint=shipped")
    grid = cells(table)
    assert len({cell.key for cell in grid}) == 3
    assert "teacher.members=[resnet20@a,resnet20@b]" in grid[2].overrides
    table.pairs, table.teachers = ["resnet20@mcmi-0.5:resnet8", "vgg13:resnet8"], "refuse"
    with pytest.raises(ValueError, match=r"(?s)teacher_loss.weight=0\.5.*teacher=vgg13 schedule=cifar240"):
        cells(table)


def test_runs_of_another_teacher_are_not_taken_for_these(tmp_path):
    """The recipe is the same; the file with the teacher's weights is not."""
    torch.manual_seed(0)
    save_weights(create_model("resnet20", 100), tmp_path / "other.safetensors", {})
    shipped = cells(load_table("demo", []))
    other = cells(load_table("demo", [f"teacher.checkpoint={tmp_path / 'other.safetensors'}"]))
    assert not {cell.key for cell in shipped} & {cell.key for cell in other}


@pytest.mark.slow
def test_a_small_table_runs_once_and_reports_what_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = [
        "demo",
        "losses=ce,kd",
        "seeds=0",
        "schedule.epochs=1",
        "schedule.batch_size=500",
        "evaluate_every=1",
    ]
    assert main(small) == 0
    out = capsys.readouterr().out
    assert "2 done, 0 failed, 0 left of 2" in out
    page = (tmp_path / "runs/tables/demo/README.md").read_text()
    assert page.count("| resnet20 -> resnet8 |") == 2
    assert (tmp_path / "runs/tables/demo/table.png").read_bytes().startswith(b"\x89PNG")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("student.safetensors")}
    assert main(small) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("student.safetensors")} == before

    failing = [*small, "schedule.lr=1e30", "schedule.plan=constant", "retries=0"]
    assert main(failing) == 1
    out = capsys.readouterr().out
    assert "0 done, 2 failed, 0 left of 2" in out
    assert "not finite" in out
    assert len(found(load_table("demo", []))) == 4
    assert main([*small, "losses=ce"]) == 0
    page = (tmp_path / "runs/tables/demo/README.md").read_text()
    assert "losses=ce` on " in page, "the page says the command that made it"
    assert json.loads(next(tmp_path.rglob("record.json")).read_text())["table"] == "demo"


def test_a_teacher_is_not_cut_short_by_what_its_students_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path))
    told = ["pairs=wrn_40_2:wrn_16_2", "losses=kd", "seeds=0", "trainer=cpu", "trainer.max_epochs=1"]
    table = load_table("cifar100-same", told)
    _, missing = with_teachers(table, cells(table))
    (teacher,) = needed(table, missing)
    assert "trainer=cpu" in teacher.overrides
    assert teacher.plan.cfg.trainer.max_epochs == 240


def test_a_teacher_of_timms_is_fetched_and_not_trained(tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path))
    (tmp_path / "images").mkdir()
    told = ["losses=kd", f"dataset.path={tmp_path / 'images'}", "pairs=timm/resnet34.tv_in1k:timm/resnet18"]
    with pytest.raises(
        ValueError, match=r"kdbench evaluate dataset=imagenet dataset\.path=.* checkpoint=hub store="
    ):
        cells(load_table("imagenet", told))


def test_the_command_line_comes_after_a_variant():
    table = load_table("mcmi-fewshot", ["variants=5%", "dataset.subset.fraction=0.1"])
    words = overrides_of(table, table.pairs[0], "5%", "kd", 0)
    given = [word for word in words if word.startswith("dataset.subset.fraction=")]
    assert given == ["dataset.subset.fraction=0.05", "dataset.subset.fraction=0.1"]


def test_what_is_not_done_is_on_the_page_and_in_what_it_is_made_from():
    table = Table("A test", "Of missing runs.", ["a:b"], ["kd"], [0, 1], name="test")
    page = markdown(
        table, [record("kd", 50.0)], "kdbench table test", ["kd, a -> b, seed 1 (its loss is nan)"]
    )
    assert "Not done, and in no number here: kd, a -> b, seed 1 (its loss is nan)." in page


def test_a_teacher_is_beside_the_published_network_of_its_name():
    run = record("kd", 70.0)
    run["names"] |= {"teacher": "resnet56", "student": "resnet20", "dataset": "cifar100"}
    run["teacher"] = {"name": "resnet56", "top1": 70.64, "epoch": 30, "hash": "a"}
    assert teacher_lines([run]) == [
        "Teacher resnet56: 70.64 % test top-1; 30 epochs; published 72.34 % after 240 epochs, here -1.70."
    ]
    assert "published" not in teacher_lines([record("kd", 70.0)])[0]
