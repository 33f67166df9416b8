"""Instructions and responses: files, rows, generation, scores, and a table with several test sets."""

import json
import statistics

import pytest
import torch

from kdbench.cli.cache import main as cache
from kdbench.cli.evaluate import main as evaluate
from kdbench.cli.table import main as table
from kdbench.config.command_line import expand_short_forms
from kdbench.core.records import records
from kdbench.core.types import IGNORED
from kdbench.data.images.image_io import DataError
from kdbench.data.text.instructions import InstructionData, read_instructions
from kdbench.reports.aggregate import gather
from kdbench.reports.read import Run, by_test_set
from kdbench.reports.report import report_on
from kdbench.runs.execute import run
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from kdbench.tasks import task_of
from tests.helpers.composition import compose_checked
from tests.helpers.model_folders import rows, save_instructions

pytest.importorskip("transformers", reason="the extra `text` is not installed")
register()

SETS = ("self_instruct", "vicuna", "super_ni", "unnatural")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_instructions(tmp_path_factory.mktemp("minillm"))


@pytest.fixture(scope="module")
def settings(gpt2, folder) -> list[str]:
    """Overrides of a short run on these files."""
    return [
        *("dataset=dolly", f"dataset.path={folder}", "dataset.validation=8", "dataset.draws=2"),
        *("dataset.max_prompt=120", "dataset.max_response=16", f"student.options.pretrained={gpt2}"),
        *("schedule.epochs=2", "schedule.batch_size=16", "trainer=cpu", "threads=1", "progress=false"),
    ]


def data_of(folder, gpt2, **options) -> InstructionData:
    defaults = {"name": "dolly", "seed": 0, "batch_size": 4, "train": "raw.jsonl", "test": "valid.jsonl"}
    defaults |= {
        "path": str(folder),
        "validation": 8,
        "tokenizer": str(gpt2),
        "max_prompt": 120,
        "max_response": 16,
    }
    data = InstructionData(**{**defaults, **options})
    data.setup()
    return data


def test_rows_are_the_tokens_of_the_answer_and_its_end(folder, gpt2):
    data = data_of(folder, gpt2)
    tokens = data.eval_batch("test", 0, 2).texts["text"]
    instructions = read_instructions(folder / "valid.jsonl")
    for row, instruction in enumerate(instructions[:2]):
        ids, labels = tokens.ids[row].tolist(), tokens.labels[row].tolist()
        first = next(position for position, label in enumerate(labels) if label != IGNORED)
        sequence = data.tokenizer.encode(
            instruction.prompt + instruction.answers[0], add_special_tokens=False
        ).ids
        prompt = data.tokenizer.encode(instruction.prompt, add_special_tokens=False).ids
        assert ids[: first + 1] == prompt[:120]
        answer = [label for label in labels if label != IGNORED]
        assert answer == [*sequence[len(prompt) :], data.end_id][: 136 - min(120, len(prompt))]
        assert ids[first + 1 : first + len(answer)] == answer[:-1]


def test_prompt_is_alpacas_and_the_first_rows_are_for_validation(folder, gpt2):
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
    ("options", "message"),
    [
        ({"validation": 60}, "leaves none of the 60 rows in .*raw.jsonl"),
        ({"draws": 0}, "dataset: draws must be finite and at least 1"),
        ({"temperature": -1.0}, "dataset: temperature must be finite and not negative"),
        ({"further": {"dolly": "valid.jsonl"}}, "dataset.further.dolly"),
    ],
)
def test_invalid_options_are_refused(folder, gpt2, options, message):
    with pytest.raises(ValueError, match=message):
        data_of(folder, gpt2, **options)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "JSONDecodeError"),
        ('{"instruction": "a"}', "output"),
        ('{"output": "a"}', "prompt"),
        ('{"prompt": "", "output": "a"}', "empty"),
    ],
)
def test_message_names_an_invalid_line(tmp_path, line, message):
    file = tmp_path / "raw.jsonl"
    file.write_text('{"instruction": "a", "output": "b"}\n' + line + "\n")
    with pytest.raises(DataError, match=rf"line 2: .*{message}"):
        read_instructions(file)


def test_missing_file_message_lists_the_options(tmp_path):
    with pytest.raises(DataError, match=r"raw.jsonl does not exist; pass dataset.path=FOLDER"):
        read_instructions(tmp_path / "raw.jsonl")


class Network(torch.nn.Module):
    """A placeholder; `generate` is replaced."""


def scores_of(data, monkeypatch, answers: list[list[str]]) -> dict[str, float]:
    """Return the scores of a network that generates these texts, draw by draw."""
    draws = iter(answers)
    end = data.end_id

    def generate(networks, prompts, end_id, uniforms, temperature):
        assert uniforms.shape == (len(prompts), 16, 1)
        return [[*data.tokenizer.encode(text).ids, end] for text in next(draws)]

    monkeypatch.setattr("kdbench.metrics.generation.generate", generate)
    metric = task_of(data).build_metric(data, "test")
    batch = data.eval_batch("test", 0, len(answers[0]))
    metric.update(Network(), batch, torch.zeros(len(batch.target), data.num_classes))
    return metric.compute()


def test_rouge_is_the_best_over_references_and_the_mean_over_draws(folder, gpt2, monkeypatch, tmp_path):
    lines = [
        {"prompt": "Say it.\n", "output": ["the cats sat on a mat", "no"]},
        {"prompt": "And?\n", "output": "Yes!"},
    ]
    (tmp_path / "raw.jsonl").write_text((folder / "raw.jsonl").read_text())
    (tmp_path / "valid.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = data_of(tmp_path, gpt2, draws=2)
    scores = scores_of(data, monkeypatch, [["No.", " yes"], ["the cat sat", "never"]])
    # 'the cat sat' against six words: precision 1, recall 1/2 (stemmed), F 2/3
    assert scores["rouge_l"] == pytest.approx(100 * statistics.fmean([1, 1, 2 / 3, 0]), abs=1e-3)
    assert scores["exact_match"] == 50.0
    assert {"nll", "token_accuracy"} <= scores.keys()


def test_networks_share_the_random_numbers(folder, gpt2):
    data = data_of(folder, gpt2, draws=3)
    network = task_of(data).build_model(data, "gpt2", {"pretrained": str(gpt2)})
    batch = data.eval_batch("test", 0, 4)
    logits = torch.zeros(len(batch.target), data.num_classes)
    results = []
    for _ in range(2):
        metric = task_of(data).build_metric(data, "test")
        metric.update(network, batch, logits)
        results.append((metric.compute(), [sample["written"] for sample in metric.samples]))
    assert results[0] == results[1]
    assert len(set(results[0][1])) > 1


def test_generation_does_not_depend_on_the_batch(folder, gpt2):
    results = []
    for size in (4, 3):
        data = data_of(folder, gpt2, draws=2)
        network = task_of(data).build_model(data, "gpt2", {"pretrained": str(gpt2)})
        metric = task_of(data).build_metric(data, "test")
        for start in range(0, 6, size):
            batch = data.eval_batch("test", start, min(6, start + size))
            metric.update(network, batch, torch.zeros(len(batch.target), data.num_classes))
        results.append((metric.compute(), [sample["written"] for sample in metric.samples]))
    assert results[0] == results[1]


def test_recipe_hash_ignores_paths_of_files(settings, tmp_path):
    other = [
        *settings,
        "dataset.train=/elsewhere/raw.jsonl",
        "dataset.further.vicuna=/elsewhere/v.jsonl",
        "loss=ce",
    ]
    assert plan(*other).recipe_hash == plan(*settings, "loss=ce").recipe_hash
    assert plan(*other, "+dataset.further.more=x").recipe_hash != plan(*other).recipe_hash


def test_top_k_cache_of_custom_files_is_filled(settings, gpt2, capsys):
    custom = [one for one in settings if not one.startswith(("dataset=", "student"))]
    custom += [
        "dataset=instructions",
        "dataset.name=mine",
        "dataset.train=raw.jsonl",
        "dataset.test=valid.jsonl",
    ]
    custom += [
        "student=lm_tiny",
        "teacher=gpt2",
        f"teacher.options.pretrained={gpt2}",
        "teacher.top_k=4",
        "loss=fkl",
    ]
    assert cache(["fill", *custom]) == 2
    assert "kdbench train-teacher dataset=instructions dataset.name=mine" in capsys.readouterr().err
    path = next(one for one in settings if one.startswith("dataset.path"))
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
    assert cache(["fill", *custom]) == 0


def plan(*given: str):
    overrides = expand_short_forms(given, "train")
    return make_plan(compose_checked("train", overrides), dict(one.split("=", 1) for one in overrides))


@pytest.fixture(scope="module")
def done(settings, tmp_path_factory):
    """Folder and record of a run on labels only."""
    output = tmp_path_factory.mktemp("runs")
    run(plan(*settings, "loss=ce", "teacher=none", f"output={output}"))
    ((folder, record),) = list(records(output))
    return folder, record


def test_run_is_scored_on_all_test_sets_and_selected_on_validation(done):
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


def test_each_test_set_is_a_row_of_reports(done):
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
def test_published_table_runs_on_tiny_weights_and_data(settings, gpt2, folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    small = [one for one in settings if not one.startswith(("dataset=", "trainer", "threads", "progress"))]
    small += [f"teacher.options.pretrained={gpt2}", "trainer=cpu", "precision=fp32", "loss.stage.epochs=1"]
    teacher = f"teacher_overrides=precision=fp32,trainer=cpu,schedule.epochs=1,{','.join(small[:5])}"
    assert table(["abkd-gpt2", "losses=fkl,abkd_lm", "seeds=0", "jobs=1", "threads=1", teacher, *small]) == 0
    page = (tmp_path / "runs/tables/abkd-gpt2/README.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| gpt2_xl -> gpt2 |")]
    assert len(lines) == 10
    assert any("vicuna" in line and "abkd_lm" in line and "16.06" in line for line in lines)
    _, *results = (tmp_path / "runs/tables/abkd-gpt2/results.jsonl").read_text().splitlines()
    assert len(results) == 2
    assert not any(str(path) in line for line in results for path in (tmp_path, gpt2, folder))
