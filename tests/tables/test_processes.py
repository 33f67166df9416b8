"""How a table's runs are dealt out to processes, and whether the teacher's answers are stored before."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from kdbench.cli.table import main
from kdbench.config.command_line import command_line_jobs
from kdbench.data.images.image_io import DataError
from kdbench.runs.answer_cache import group_by_answers
from kdbench.runs.hydra_setup import register
from kdbench.tables.definition import load_table
from kdbench.tables.grid import cells
from kdbench.tables.precompute import live_images, precompute_answers
from kdbench.tables.processes import command, make_batches

register()

LOSSES = ["ce", "kd", "ttm", "at"]
PAIRS = ["resnet20:resnet8", "resnet20:resnet14"]


def table(*words: str):
    return load_table("demo", list(words))


GRID = cells(table(f"losses={','.join(LOSSES)}", f"pairs={','.join(PAIRS)}", "seeds=0,1,2"))


@given(
    st.one_of(st.just(set(range(len(GRID)))), st.sets(st.integers(0, len(GRID) - 1), min_size=1)),
    st.integers(1, 5),
    st.integers(1, 8),
)
@settings(max_examples=40)
def test_every_missing_run_is_trained_once_and_its_command_line_says_just_that(chosen, jobs, most):
    """Whatever is missing: the processes have all of it, no more than allowed, and nobody is idle without need."""
    missing = [GRID[number] for number in sorted(chosen)]
    made = make_batches(table(f"jobs={jobs}", f"cohort={most}"), missing)
    assert sorted(id(cell) for batch in made for cell in batch) == sorted(map(id, missing))
    assert max(map(len, made)) <= most
    assert len(made) % jobs == 0 or all(len(batch) == 1 for batch in made)
    for batch in made:
        said = {
            frozenset(job) for job in command_line_jobs([w for w in command(batch) if "launcher" not in w])
        }
        assert said == {frozenset(cell.overrides) for cell in batch}
        assert len({(cell.seed, cell.pair.split(":")[0]) for cell in batch}) == 1


def test_seeds_are_cohorts():
    made = make_batches(table("jobs=3"), GRID)
    assert [len(batch) for batch in made] == [8, 8, 8]
    assert command(made[0])[:2] == ["-m", "hydra/launcher=cohort"]


def test_one_seed_is_divided_among_the_jobs():
    one = [cell for cell in GRID if cell.seed == 0]
    assert [len(batch) for batch in make_batches(table("jobs=2"), one)] == [4, 4]


class Data:
    steps_per_epoch = 63

    @staticmethod
    def rows(epoch: int, start: int, stop: int) -> int:
        return 2000


class Asked:
    """A filling on 2,000 images."""

    data = Data()


def asked(grid, *words: str) -> int:
    (group,) = group_by_answers([cell.plan for cell in GRID])
    return live_images(make_batches(table(*words), grid), Asked, group)


def test_the_teacher_is_asked_once_for_each_image_of_a_process_and_not_for_those_that_ask_it_anyway():
    logits = [cell for cell in GRID if cell.loss in ("ce", "kd", "ttm")]
    assert asked(logits, "jobs=3") == 3 * 5 * 2000
    assert asked(GRID, "jobs=3") == 0  # at asks it for features
    assert asked(GRID, "jobs=3", "cohort=1") == 3 * 2 * 2 * 5 * 2000
    assert asked([c for c in GRID if c.loss == "ce"]) == 0


def test_runs_on_other_data_ask_for_answers_of_their_own():
    words = ["demo", "losses=kd", "seeds=0", "jobs=1", "cohort=1"]
    few, many = (
        cells(load_table("demo", [*words[1:], f"dataset.subset.fraction={part}"])) for part in (0.1, 0.5)
    )
    of_few, of_many = group_by_answers([cell.plan for cell in (*few, *many)])
    assert [one.cfg.dataset.subset.fraction for one in of_few] == [0.1] * len(few)
    both = make_batches(table(*words[1:]), [*few, *many])
    assert live_images(both, Asked, of_many) == live_images(
        make_batches(table(*words[1:]), many), Asked, of_many
    )


def test_data_that_are_not_there_are_said_and_nothing_is_stored(tmp_path, monkeypatch):
    def missing(group):
        raise DataError("there is no such folder")

    monkeypatch.setattr("kdbench.tables.precompute.cache_writer", missing)
    console = Console(record=True, file=io.StringIO())
    given = load_table("demo", ["losses=kd", "seeds=0"])
    precompute_answers(make_batches(given, cells(given)), 1, console)
    assert "not stored: there is no such folder" in console.export_text()


def test_runs_without_a_teacher_have_nothing_to_store():
    alone = load_table("first-look", ["pairs=none:resnet8", "losses=ce"])
    console = Console(record=True, file=io.StringIO())
    precompute_answers(make_batches(alone, cells(alone)), 1, console)
    assert console.export_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize(("cohort", "stored"), [(8, False), (1, True)])
def test_answers_are_stored_where_they_would_be_asked_for_again(
    tmp_path, monkeypatch, capsys, cohort, stored
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    small = ["demo", "losses=kd,ttm", "seeds=0", "schedule.epochs=1", "schedule.batch_size=500"]
    assert main([*small, f"cohort={cohort}", "jobs=1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert ("they are stored first" in said) == stored
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/**/record.json")]
    assert {record["teacher"]["answers"] != "live" for record in records} == {stored}
    assert {len(record["cohort"] or [1]) for record in records} == {1 if stored else 2}
    page = (tmp_path / "runs/tables/demo/README.md").read_text()
    assert ("read from a cache (float16): kd, ttm" in page) == stored


def test_networks_of_timms_and_ours_are_not_one_product():
    pairs = "pairs=resnet20:resnet8,resnet20:timm/resnet18,resnet20:timm/resnet34"
    grid = cells(table(pairs, "losses=ce,kd", "seeds=0", "jobs=1"))
    said = sorted(
        sorted(word for word in command(batch) if word.startswith("student"))
        for batch in make_batches(table(), grid)
    )
    assert said == [["student.name=timm/resnet18,timm/resnet34", "student=timm"], ["student=resnet8"]]
