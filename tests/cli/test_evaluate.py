import json

import pytest

from kdbench.cli.evaluate import main


@pytest.mark.slow
def test_the_official_checkpoint_has_its_measured_accuracy(big_data, capsys):
    checkpoint = big_data / "teachers" / "resnet56_cifar100.pth"
    assert main(["dataset=cifar100", "model=resnet56", f"checkpoint={checkpoint}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["top1"] == pytest.approx(70.64, abs=0.05)
    assert result["images"] == 10_000


def test_the_shipped_teacher_has_the_accuracy_of_its_card_on_the_mini_test_images(capsys):
    from kdbench.teachers.store import shipped

    weights = shipped("cifar100", "resnet20")
    card = json.loads(weights.with_suffix(".json").read_text())
    assert main(["dataset=cifar100_mini", "model=resnet20", f"checkpoint={weights}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    # 1,000 of the 10,000 test images: a standard error of 1.5 points
    assert result["top1"] == pytest.approx(card["top1"], abs=5)
    assert card["top1"] >= 60


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model=resnet8", "checkpoint=nowhere.pth"], "nowhere.pth"),
        (["model=resnet8", "checkpoint=x", "split=train"], "split=train; cifar100_mini has test"),
        (["model=resnet8"], "checkpoint has no value"),
        (["model=resnet88", "checkpoint=x"], "no model=resnet88"),
        (["model=resnet8", "checkpoint=hub"], "resnet8 has no weights on the hub: only timm/<name> has"),
    ],
)
def test_mistakes_are_said(arguments, words, capsys):
    assert main(["dataset=cifar100_mini", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_checkpoint_becomes_a_teacher_in_the_store(tmp_path, monkeypatch, capsys):
    from kdbench.teachers.store import cards, shipped, stored

    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    weights = tmp_path / "theirs.safetensors"
    weights.write_bytes(shipped("cifar100", "resnet20").read_bytes())
    given = ["dataset=cifar100_mini", "model=resnet20", f"checkpoint={weights}", "store=resnet20@theirs"]
    assert main([*given, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (card,) = (card for card in cards() if card.get("teacher") == "resnet20@theirs")
    assert result["stored"] == card["file"] == str(stored("cifar100", "resnet20@theirs"))
    assert card["top1"] == result["top1"]
    assert card["nll"] == result["nll"]
    assert card["cmi"] > 0
    assert main(given) == 0, "the same file again is no mistake"
    assert "stored as the teacher resnet20@theirs" in capsys.readouterr().out
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    assert main(given) == 2
    assert "the store has another resnet20@theirs" in capsys.readouterr().err
    assert main([*given[:-1], "store=resnet56"]) == 2
    assert "named after its network, resnet20" in capsys.readouterr().err
