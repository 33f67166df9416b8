"""`kdbench analyze`, from the command line to the files."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from kdbench.analysis import eigen_cam as cam
from kdbench.cli.analyze import main
from kdbench.cli.evaluate import main as evaluate
from kdbench.models.checkpoints import save_weights
from kdbench.models.registry import create_model
from kdbench.training.run_folder import RunFolder
from tests.analysis.conftest import train

SIDE = {
    "role",
    "model",
    "file",
    "hash",
    "top1",
    "top5",
    "nll",
    "brier",
    "ece",
    "ece_equal_mass",
    "confidence",
}
SIDE |= {"shannon_entropy", "renyi_entropy", "cmi", "reliability", "classes", "confusions", "features"}
QUICK = ["pictures=false", "--json"]


def analyse(capsys, *arguments) -> dict:
    assert main([str(argument) for argument in arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_analysis_of_a_run_with_its_teacher(wttm, tmp_path, capsys):
    assert main([str(wttm), f"output={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "analysis.json").read_text())
    assert set(result["subject"]) == set(result["reference"]) == SIDE
    assert (result["subject"]["role"], result["reference"]["role"]) == ("student", "teacher")
    assert result["dataset"] == {"name": "fake", "split": "test", "images": 32, "classes": 4}
    assert result["gamma"] == {"value": 0.3, "from": "gamma of the run's WTTM"}
    assert abs(result["pair"]["ttm"]["residual"]) < 1e-12
    page = (tmp_path / "analysis.md").read_text()
    for picture in result["pictures"]:
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
        assert f"]({picture})" in page
    assert len(result["pictures"]) == (7 if cam.available() else 6)
    assert (cam.INSTALL_HINT in page) != cam.available()
    for words in ("student resnet8", "teacher resnet8", f"{result['subject']['nll']:.4f}"):
        assert words in page
        assert words in printed
    matrices = np.load(tmp_path / "matrices.npz")
    assert matrices["subject_centroids"].sum(axis=1) == pytest.approx(np.ones(4))
    assert matrices["subject_confusion"].sum() == 32
    assert {"reference_centroids", "reference_confusion", "correlation_difference"} <= set(matrices)


def test_every_number_is_in_the_documentation(wttm, capsys):
    text = (Path(__file__).parents[2] / "docs" / "analyze.md").read_text()
    result = analyse(capsys, wttm, *QUICK)
    pair = [*result["pair"], *(f"ttm.{key}" for key in result["pair"]["ttm"])]
    for key in {*SIDE, *pair} - {"role", "model", "file", "hash", "features", "ttm"}:
        assert re.search(rf"^\| .*\b{key}\b.* \|", text, re.MULTILINE), key


def test_numbers_equal_those_of_the_runs_record(wttm, capsys):
    last = RunFolder(wttm).record()["results"]["last"]
    result = analyse(capsys, wttm, *QUICK)
    for key in ("top1", "top5", "nll", "ece"):
        assert result["subject"][key] == pytest.approx(last[key], abs=1e-3)
    assert result["pair"]["agreement"] == pytest.approx(last["agreement"], abs=1e-3)
    assert result["reference"]["top1"] == pytest.approx(RunFolder(wttm).record()["teacher"]["top1"], abs=1e-3)
    assert result["notes"] == []
    assert json.loads((wttm / "analysis/test/analysis.json").read_text()) == result


def test_analysis_is_reproducible(wttm, tmp_path, capsys):
    one, other = (analyse(capsys, wttm, *QUICK, f"output={tmp_path}") for _ in range(2))
    del one["provenance"], other["provenance"]
    assert one == other


def test_student_with_its_own_head_is_measured_with_it(simkd, tmp_path, capsys):
    last = RunFolder(simkd).record()["results"]["last"]
    result = analyse(capsys, simkd, *QUICK)
    assert (result["subject"]["top1"], result["subject"]["nll"]) == pytest.approx(
        (last["top1"], last["nll"]), abs=1e-3
    )
    weights = [f"checkpoint={simkd}/student.safetensors", "dataset=fake", "model=resnet8", "--json"]
    assert evaluate(weights) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert {key: evaluated[key] for key in ("top1", "top5", "nll", "ece")} == pytest.approx(
        {key: last[key] for key in ("top1", "top5", "nll", "ece")}, abs=1e-4
    )
    shutil.copy(simkd / "student.safetensors", tmp_path)
    assert evaluate([f"checkpoint={tmp_path}/student.safetensors", *weights[1:]]) == 2
    assert (
        "student.predictor.safetensors and the run's record.json must lie beside it"
        in capsys.readouterr().err
    )


def test_splits_have_the_expected_sizes(wttm, capsys):
    sizes = dict.fromkeys(("train", "validation", "test"), 0)
    for split in sizes:
        sizes[split] = analyse(capsys, wttm, *QUICK, f"split={split}")["dataset"]["images"]
    assert sizes == {"train": 56, "validation": 8, "test": 32}


def test_checkpoint_alone_and_compared_with_another(wttm, teacher, tmp_path, capsys):
    given = ["dataset=fake", "model=resnet8", f"checkpoint={teacher}", f"output={tmp_path}", *QUICK]
    alone = analyse(capsys, *given)
    assert (alone["subject"]["role"], alone["reference"], alone["pair"]) == ("model", None, None)
    assert alone["gamma"]["value"] == 0.25
    for other in (wttm, wttm / "student.safetensors"):
        both = analyse(capsys, *given, f"against={other}")
        assert both["reference"]["role"] == "against"
        assert both["subject"] == alone["subject"]
    same = analyse(capsys, *given, f"against={teacher}")["pair"]
    assert (same["agreement"], same["predictive_kl"]) == (100, pytest.approx(0, abs=1e-12))
    assert same["cka"] == pytest.approx({"unbiased": 1, "biased": 1})
    assert same["correlation_difference"]["max"] == pytest.approx(0, abs=1e-9)
    with_teacher = [*given, "teacher=resnet8", f"teacher.checkpoint={teacher}"]
    assert analyse(capsys, *with_teacher)["reference"]["role"] == "teacher"


def test_file_may_precede_the_keys(teacher, tmp_path, capsys):
    given = ["dataset=fake", "model=resnet8", f"output={tmp_path}", *QUICK]
    assert analyse(capsys, teacher, *given)["subject"]["file"] == teacher.name


def test_teacher_run_is_analysed_without_reference(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    folder = train(tmp_path / "runs", root="train_teacher")
    capsys.readouterr()
    result = analyse(capsys, folder, *QUICK)
    assert (result["subject"]["role"], result["subject"]["model"], result["reference"]) == (
        "model",
        "resnet8",
        None,
    )


def test_notes_mention_other_data_and_another_teacher(wttm, tmp_path, capsys):
    torch.manual_seed(1)
    save_weights(create_model("resnet8", 4), tmp_path / "other.safetensors", {})
    changed = [f"teacher.checkpoint={tmp_path}/other.safetensors", "dataset.data_seed=3"]
    result = analyse(capsys, wttm, *QUICK, f"output={tmp_path}", *changed)
    assert "not those of the run" in result["notes"][0]
    assert "The teacher is not the one of the run" in result["notes"][1]


MISTAKES = [
    (["nowhere"], "no run folder and no checkpoint at nowhere"),
    ([], "what is to be analysed?"),
    (["{empty}"], "is not a run folder: it has no record.json"),
    (["{unfinished}"], "is unfinished: interrupted (stopped at epoch 1)"),
    (["{run}", "split=tset"], "split=tset; fake has validation, test, train"),
    (["{run}", "dataset.validation=0", "split=validation"], "dataset.validation=N holds a part out"),
    (["{run}", "dataset.classes=5"], "expects classifier [5, 64], the file has [4, 64]"),
    (["{run}", "images=[32]"], "images=[32]: test has rows 0 to 31, and not 32"),
    (["{run}", "gamma=0"], "gamma must be positive"),
    (["{run}", "gama=1"], "did you mean 'gamma'?"),
    (["{run}", "threads=0"], "threads must be at least 1"),
    (["{run}", "checkpoint=x"], "give one of them"),
    (["{run}", "against=nowhere"], "no run folder and no checkpoint at nowhere"),
    (["{run}", "teacher.checkpoint=nowhere"], "teacher=none omits the teacher"),
    (["dataset=fake", "model=resnet8"], "checkpoint has no value yet"),
    (["dataset=fake", "model=resnet8", "checkpoint=nowhere"], "no checkpoint at nowhere"),
    (["dataset=fake", "model=resnet88", "checkpoint=x"], "no model=resnet88"),
    (["dataset=fake", "model=vgg8", "checkpoint={teacher}"], "looks like resnet"),
]


@pytest.mark.parametrize(
    ("arguments", "words"), MISTAKES, ids=lambda value: value[:40] if isinstance(value, str) else ""
)
def test_mistakes_are_reported_in_one_line(arguments, words, wttm, teacher, tmp_path, capsys):
    places = {
        "run": wttm,
        "teacher": teacher,
        "empty": tmp_path / "empty",
        "unfinished": tmp_path / "unfinished",
    }
    places["empty"].mkdir()
    record = {**RunFolder(wttm).record(), "state": "interrupted", "reason": "stopped at epoch 1"}
    places["unfinished"].mkdir()
    RunFolder(places["unfinished"]).write_record(record)
    assert main([argument.format(**places) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("kdbench: ")
    assert "Traceback" not in error


def test_outputs_that_are_not_finite_are_refused(tmp_path, capsys):
    model = create_model("resnet8", 4)
    torch.nn.init.constant_(model.get_classifier().weight, float("nan"))
    save_weights(model, tmp_path / "nan.safetensors", {})
    assert main(["dataset=fake", "model=resnet8", f"checkpoint={tmp_path}/nan.safetensors"]) == 2
    assert "not finite" in capsys.readouterr().err
