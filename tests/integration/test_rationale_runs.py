"""Whole runs of the rationale task on SVAMP: tables' records, a kill, a cohort."""

import json

import pytest
import torch

from kdbench.cli.evaluate import main
from kdbench.config.command_line import expand_short_forms
from kdbench.core.records import records
from kdbench.runs.execute import run, run_cohort
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from kdbench.training.run_folder import RunFolder
from tests.helpers.composition import compose_checked

pytest.importorskip("transformers", reason="the extra `text` is not installed")
register()

TINY = ["dataset=svamp", "trainer=cpu", "threads=1", "progress=false", "log_every=2", "save_every=0"]
TINY += ["dataset.vocabulary=400", "dataset.fraction=0.08", "schedule.epochs=2", "dataset.max_answer=4"]
TINY += ["dataset.max_target=32", "dataset.quality_samples=2", "dataset.eval_batch_size=100"]
TINY += [
    "student.options={d_model: 16, d_kv: 8, d_ff: 16, num_layers: 1, num_decoder_layers: 1, num_heads: 2}"
]


def plan(*overrides: str):
    choices = dict(item.split("=", 1) for item in overrides)
    return make_plan(compose_checked("train", [*TINY, *overrides]), choices)


def state(output) -> dict:
    ((path, _),) = records(output)
    return torch.load(path / "state.pt", weights_only=True)


def equal(one: dict, other: dict) -> None:
    for part in ("model", "best"):
        assert one[part].keys() == other[part].keys()
        for key, value in one[part].items():
            assert torch.equal(value, other[part][key]), key
    assert one["progress"]["curve"] == other["progress"]["curve"]
    assert one["progress"]["final"] == other["progress"]["final"]


@pytest.mark.parametrize("loss", ["finetune", "dss_mi"])
def test_a_checkpoint_is_evaluated_on_what_it_was_trained_on(alone, loss, capsys):
    ((path, record),) = records(alone[loss])
    given = [word for word in TINY if word.startswith("dataset")]
    model = ["model=t5_tiny", next(w for w in TINY if w.startswith("student")).replace("student", "model")]
    assert main([*given, *model, f"checkpoint={path / 'student.safetensors'}", "threads=1", "--json"]) == 0
    found, last = json.loads(capsys.readouterr().out), record["results"]["last"]
    assert {key: found[key] for key in ("accuracy", "nll", "ece")} == pytest.approx(
        {key: last[key] for key in ("accuracy", "nll", "ece")}, abs=1e-5
    )


class KillError(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Runs that were never disturbed, by loss."""
    folders = {}
    for loss in ("finetune", "dss_mi"):
        folders[loss] = tmp_path_factory.mktemp(loss)
        run(plan(f"loss={loss}", f"output={folders[loss]}"))
    return folders


def test_the_record_says_task_and_scores(alone):
    ((path, record),) = records(alone["dss_mi"])
    results = record["results"]
    assert (record["task"], record["names"]["teacher"], record["names"]["student"]) == (
        "rationale",
        "none",
        "t5_tiny",
    )
    assert {"accuracy", "exact_match", "nll", "ece", "ece_mass", "rouge_l", "bleu"} <= set(results["last"])
    assert "best_on_test" not in results
    assert "validation_accuracy" in results["best_validation"]
    assert [("test/accuracy" in row, "validation/accuracy" in row) for row in results["curve"]] == [
        (False, True),
        (True, True),
    ]
    lines = [json.loads(line) for line in (path / "samples.jsonl").read_text().splitlines()]
    assert lines[0]["split"] == "test"
    assert {"input", "label", "prediction", "right", "confidence"} <= set(lines[0])
    assert record["examples_per_second"] > 0
    ((_, plain),) = records(alone["finetune"])
    assert "rouge_l" not in plain["results"]["last"], "it was never asked to explain"


def test_killed_and_resumed_to_the_bit(alone, tmp_path, monkeypatch):
    append = RunFolder.append_metrics

    def die(folder, row):
        if (row["epoch"], row.get("step")) == (2, 2):
            raise KillError
        append(folder, row)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_metrics", die)
        with pytest.raises(KillError):
            run(plan("loss=dss_mi", f"output={tmp_path}"))
    run(plan("loss=dss_mi", f"output={tmp_path}", "resume=true"))
    equal(state(alone["dss_mi"]), state(tmp_path))


def test_a_cohort_of_losses_that_read_different_inputs_is_each_run_alone(alone, tmp_path):
    members = run_cohort([plan(f"loss={loss}", f"output={tmp_path}") for loss in ("finetune", "dss_mi")])
    assert all(member.error is None for member in members)
    for member, loss in zip(members, ("finetune", "dss_mi"), strict=True):
        found = torch.load(member.folder.path / "state.pt", weights_only=True)
        equal(state(alone[loss]), found)


def test_companions_of_a_data_set_of_text():
    chosen = ["teacher=none", "student=t5_tiny", "schedule=text_quick"]
    assert set(expand_short_forms(["dataset=svamp", "loss=dss_mi"], "train")) == {
        "dataset=svamp",
        "loss=dss_mi",
        *chosen,
    }
    assert expand_short_forms(["dataset=svamp"], "evaluate") == ["dataset=svamp"]
    assert expand_short_forms(["dataset=svamp,cqa", "student=t5_base", "loss=dss"], "train")[:1] == [
        "teacher=none"
    ]
    assert expand_short_forms(["dataset=svamp,cifar100"], "train") == ["dataset=svamp,cifar100"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["loss=kd"], "the task of svamp is rationale, and kd is for images and lm"),
        (["student=resnet8"], "task=rationale of svamp needs one of t5_tiny"),
        (
            ["teacher=resnet20"],
            "the teacher of svamp is the language model .* in the data; give teacher=none",
        ),
        (["loss.input=text"], "loss.input=text, and the task of svamp is rationale; possible: predict, raw"),
        (["loss.input=explain"], "loss.input=explain, .* possible: predict, raw"),
    ],
)
def test_what_does_not_fit_is_said_before_any_work(overrides, words):
    own = [word for word in TINY if "student" not in overrides[0] or not word.startswith("student.options")]
    with pytest.raises(ValueError, match=words):
        make_plan(compose_checked("train", [*own, *overrides]), {})


def test_an_image_run_with_a_loss_of_text_is_refused():
    with pytest.raises(ValueError, match="the task of fake is images, and rationale_ce is for rationale"):
        make_plan(compose_checked("train", ["dataset=fake", "loss=dss", "trainer=cpu"]), {})
    with pytest.raises(ValueError, match=r"give loss\.input=null"):
        make_plan(compose_checked("train", ["dataset=fake", "loss=finetune", "trainer=cpu"]), {})


def test_where_things_lie_is_no_part_of_a_run():
    assert plan("loss=dss").recipe_hash == plan("loss=dss", "dataset.path=/elsewhere").recipe_hash
    assert plan("loss=dss").recipe_hash != plan("loss=dss", "dataset.rationale_noise=0.3").recipe_hash
