"""Instructions and answers: files, rows, what is written and how it is judged, and a table on several test sets."""

import json
import statistics

import pytest
import torch

from kdbench.cli.cache import main as cache
from kdbench.cli.evaluate import main as evaluate
from kdbench.cli.table import main as table
from kdbench.config.compose import compose_checked, spelled_out
from kdbench.core.types import IGNORED
from kdbench.data.images.image_io import DataError
from kdbench.data.text.instructions import InstructionData, read_instructions
from kdbench.reports.aggregate import gather
from kdbench.reports.read import Run, by_test_set
from kdbench.reports.report import report_on
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan, recipe_hash
from kdbench.runs.run import run
from kdbench.tasks import task_of
from kdbench.training.run_folder import records
from tests.helpers.model_folders import rows, save_instructions

pytest.importorskip("transformers", reason="the extra `text` is not installed")
register()

SETS = ("self_instruct", "vicuna", "super_ni", "unnatural")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_instructions(tmp_path_factory.mktemp("minillm"))


@pytest.fixture(scope="module")
def words(gpt2, folder) -> list[str]:
    """Of a short run on these files."""
    return [
        *("dataset=dolly", f"dataset.path={folder}", "dataset.validation=8", "dataset.draws=2"),
        *("dataset.max_prompt=120", "dataset.max_response=16", f"student.options.pretrained={gpt2}"),
        *("schedule.epochs=2", "schedule.batch_size=16", "trainer=cpu", "threads=1", "progress=false"),
    ]


def data_of(folder, gpt2, **more) -> InstructionData:
    known = {"name": "dolly", "seed": 0, "batch_size": 4, "train": "raw.jsonl", "test": "valid.jsonl"}
    known |= {
        "path": str(folder),
        "validation": 8,
        "tokenizer": str(gpt2),
        "max_prompt": 120,
        "max_response": 16,
    }
    made = InstructionData(**{**known, **more})
    made.setup()
    return made


def test_rows_are_the_answers_tokens_behind_the_prompt(folder, gpt2):
    data = data_of(folder, gpt2)
    tokens = data.eval_batch("test", 0, 2).texts["text"]
    asked = read_instructions(folder / "valid.jsonl")
    for row, known in enumerate(asked[:2]):
        ids, labels = tokens.ids[row].tolist(), tokens.labels[row].tolist()
        first = next(place for place, label in enumerate(labels) if label != IGNORED)
        whole = data.tokenizer.encode(known.prompt + known.answers[0], add_special_tokens=False).ids
        prompt = data.tokenizer.encode(known.prompt, add_special_tokens=False).ids
        assert ids[: first + 1] == prompt[:120]
        said = [label for label in labels if label != IGNORED]
        assert said == [*whole[len(prompt) :], data.end_id][: 136 - min(120, len(prompt))]
        assert ids[first + 1 : first + len(said)] == said[:-1]


def test_the_prompt_is_alpacas_and_the_first_rows_are_held_out(folder, gpt2):
    data = data_of(folder, gpt2)
    first = rows("train")[0]
    assert data.texts["validation"][0].answers == (first.rationale,)
    assert data.texts["validation"][0].prompt == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{first.input}\n\n### Response:\n"
    )
    assert (len(data.texts["train"]), len(data.texts["validation"])) == (52, 8)
    with_input = data.texts["test"][0].prompt
    assert "paired with an input that provides further context." in with_input
    assert with_input.endswith("\n\n### Input:\nin numbers\n\n### Response:\n")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"validation": 60}, "of 60 rows in .*raw.jsonl leaves none"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"temperature": -1.0}, "temperature must not be negative"),
        ({"further": {"dolly": "valid.jsonl"}}, "dataset.further.dolly"),
    ],
)
def test_refuses(folder, gpt2, wrong, named):
    with pytest.raises(ValueError, match=named):
        data_of(folder, gpt2, **wrong)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "JSONDecodeError"),
        ('{"instruction": "a"}', "output"),
        ('{"output": "a"}', "prompt"),
        ('{"prompt": "", "output": "a"}', "empty"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, said):
    file = tmp_path / "raw.jsonl"
    file.write_text('{"instruction": "a", "output": "b"}\n' + line + "\n")
    with pytest.raises(DataError, match=rf"line 2: .*{said}"):
        read_instructions(file)


def test_missing_files_are_said_with_what_to_give(tmp_path):
    with pytest.raises(DataError, match=r"no .*raw.jsonl: give dataset.path=FOLDER"):
        read_instructions(tmp_path / "raw.jsonl")


class Says(torch.nn.Module):
    """Stands for a network: the meter is told what it wrote."""


def scores_of(data, monkeypatch, answers: list[list[str]]) -> dict[str, float]:
    """The scores of a network that writes these texts, draw by draw."""
    said = iter(answers)
    end = data.end_id

    def written(networks, given, mark, chances, temperature):
        assert chances.shape == (len(given), 16, 1)
        return [[*data.tokenizer.encode(text).ids, end] for text in next(said)]

    monkeypatch.setattr("kdbench.metrics.generation.generate", written)
    metric = task_of(data).build_metric(data, "test")
    batch = data.eval_batch("test", 0, len(answers[0]))
    metric.update(Says(), batch, torch.zeros(len(batch.target), data.num_classes))
    return metric.compute()


def test_rouge_is_the_best_over_right_answers_and_the_mean_over_draws(folder, gpt2, monkeypatch, tmp_path):
    made = [
        {"prompt": "Say it.\n", "output": ["the cats sat on a mat", "no"]},
        {"prompt": "And?\n", "output": "Yes!"},
    ]
    (tmp_path / "raw.jsonl").write_text((folder / "raw.jsonl").read_text())
    (tmp_path / "valid.jsonl").write_text("".join(json.dumps(one) + "\n" for one in made))
    data = data_of(tmp_path, gpt2, draws=2)
    found = scores_of(data, monkeypatch, [["No.", " yes"], ["the cat sat", "never"]])
    # 'the cat sat' of six words: precision 1, recall 1/2 (stemmed), F 2/3
    assert found["rouge_l"] == pytest.approx(100 * statistics.fmean([1, 1, 2 / 3, 0]), abs=1e-3)
    assert found["exact_match"] == 50.0
    assert {"nll", "token_accuracy"} <= found.keys()


def test_two_networks_are_asked_with_the_same_chance(folder, gpt2):
    data = data_of(folder, gpt2, draws=3)
    network = task_of(data).build_model(data, "gpt2", {"pretrained": str(gpt2)})
    batch = data.eval_batch("test", 0, 4)
    logits = torch.zeros(len(batch.target), data.num_classes)
    found = []
    for _ in range(2):
        metric = task_of(data).build_metric(data, "test")
        metric.update(network, batch, logits)
        found.append((metric.compute(), [sample["written"] for sample in metric.samples]))
    assert found[0] == found[1]
    assert len(set(found[0][1])) > 1


def test_what_is_written_to_a_row_depends_on_no_other(folder, gpt2):
    found = []
    for size in (4, 3):
        data = data_of(folder, gpt2, draws=2)
        network = task_of(data).build_model(data, "gpt2", {"pretrained": str(gpt2)})
        metric = task_of(data).build_metric(data, "test")
        for start in range(0, 6, size):
            batch = data.eval_batch("test", start, min(6, start + size))
            metric.update(network, batch, torch.zeros(len(batch.target), data.num_classes))
        found.append((metric.compute(), [sample["written"] for sample in metric.samples]))
    assert found[0] == found[1]


def test_where_the_files_lie_says_nothing_of_the_recipe(words, tmp_path):
    other = [
        *words,
        "dataset.train=/elsewhere/raw.jsonl",
        "dataset.further.vicuna=/elsewhere/v.jsonl",
        "loss=ce",
    ]
    assert recipe_hash(plan(*other)) == recipe_hash(plan(*words, "loss=ce"))
    assert recipe_hash(plan(*other, "+dataset.further.more=x")) != recipe_hash(plan(*other))


def test_a_cache_of_likeliest_words_of_such_data_is_filled(words, gpt2, capsys):
    mine = [one for one in words if not one.startswith(("dataset=", "student"))]
    mine += [
        "dataset=instructions",
        "dataset.name=mine",
        "dataset.train=raw.jsonl",
        "dataset.test=valid.jsonl",
    ]
    mine += [
        "student=lm_tiny",
        "teacher=gpt2",
        f"teacher.options.pretrained={gpt2}",
        "teacher.top_k=4",
        "loss=fkl",
    ]
    assert cache(["fill", *mine]) == 2
    assert "kdbench train-teacher dataset=instructions dataset.name=mine" in capsys.readouterr().err
    path = next(one for one in words if one.startswith("dataset.path"))
    given = [
        "dataset=instructions",
        "dataset.name=mine",
        path,
        "dataset.train=raw.jsonl",
        "dataset.test=valid.jsonl",
    ]
    given += ["dataset.validation=8", "dataset.max_prompt=120", "dataset.max_response=16", "dataset.draws=1"]
    given += ["model=gpt2", f"model.options.pretrained={gpt2}", "checkpoint=hub", "store=gpt2"]
    assert evaluate(given) == 0
    assert "ROUGE-L" in capsys.readouterr().out
    assert cache(["fill", *mine]) == 0


def plan(*given: str):
    overrides = spelled_out(given, "train")
    return make_plan(compose_checked("train", overrides), dict(one.split("=", 1) for one in overrides))


@pytest.fixture(scope="module")
def done(words, tmp_path_factory):
    """A run on labels alone, and its record."""
    output = tmp_path_factory.mktemp("runs")
    run(plan(*words, "loss=ce", "teacher=none", f"output={output}"))
    ((folder, record),) = list(records(output))
    return folder, record


def test_a_run_is_scored_on_all_test_sets_and_chosen_on_the_held_out_rows(done):
    folder, record = done
    assert record["task"] == "instructions"
    for scores in (record["results"]["last"], record["results"]["best_validation"]):
        assert {"rouge_l", *(f"{name}/rouge_l" for name in SETS)} <= scores.keys()
    curve = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum("validation/rouge_l" in row for row in curve) == 2
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {one["split"] for one in samples} == {"test", *SETS}
    assert all(one["written"] is not None and one["prompt"] for one in samples)
    assert len({(one["split"], one["row"]) for one in samples}) == len(samples)


def test_each_test_set_is_a_row_of_tables_and_reports(done):
    folder, record = done
    series, _ = gather([Run(record, "")])
    assert [one.dataset for one in series] == ["dolly", *SETS]
    last = record["results"]["last"]
    assert [one.scores for one in series] == [
        [last["rouge_l"]],
        *([last[f"{name}/rouge_l"]] for name in SETS),
    ]
    again = by_test_set(by_test_set(record)[0])
    assert [one["names"]["dataset"] for one in again] == ["dolly"]
    report = report_on([str(folder.parent)], "")
    assert sorted(one.dataset for one in report.series) == sorted(["dolly", *SETS])
    assert len(report.runs) == 1


@pytest.mark.slow
def test_the_published_table_runs_on_such_weights_and_data(words, gpt2, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    small = [one for one in words if not one.startswith(("dataset=", "trainer", "threads", "progress"))]
    small += [f"teacher.options.pretrained={gpt2}", "trainer=cpu", "precision=fp32", "loss.stage.epochs=1"]
    teaching = f"teacher_overrides=precision=fp32,trainer=cpu,schedule.epochs=1,{','.join(small[:5])}"
    assert table(["abkd-gpt2", "losses=fkl,abkd_lm", "seeds=0", "jobs=1", "threads=1", teaching, *small]) == 0
    page = (tmp_path / "runs/tables/abkd-gpt2/README.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| gpt2_xl -> gpt2 |")]
    assert len(lines) == 10
    assert any("vicuna" in line and "abkd_lm" in line and "16.06" in line for line in lines)
    _, *kept = (tmp_path / "runs/tables/abkd-gpt2/results.jsonl").read_text().splitlines()
    assert len(kept) == 2
    assert not any(str(place) in line for line in kept for place in (tmp_path, gpt2, folder))
