"""Several networks as one teacher: the averages by hand, and whole runs."""

import math

import pytest
import torch
from torch import nn

from kdbench.core.types import Batch
from kdbench.models.checkpoints import save_weights
from kdbench.models.registry import create_model
from kdbench.runs.execute import run
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from kdbench.teachers.ensemble import Ensemble, ensemble_teacher
from kdbench.teachers.store import stored
from tests.helpers.composition import compose_checked

register()

TINY = ["dataset=fake", "dataset.train=64", "dataset.size=16", "schedule=quick", "schedule.batch_size=16"]
TINY += [
    "schedule.epochs=1",
    "student=resnet8",
    "trainer=cpu",
    "threads=1",
    "progress=false",
    "overwrite=true",
]


class Says(nn.Module):
    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.logits


FIRST, SECOND = [[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]], [[-1.0, 1.0, 0.0], [0.0, 2.0, -2.0]]
NOTHING = torch.zeros(2, 3, 8, 8)


@pytest.mark.parametrize(("weights", "share"), [(None, 0.5), ([3.0, 1.0], 0.75)])
def test_the_mean_of_probabilities(weights, share):
    answer = Ensemble([Says(FIRST), Says(SECOND)], "probabilities", weights)(NOTHING)
    p, q = (torch.tensor(logits).softmax(1) for logits in (FIRST, SECOND))
    torch.testing.assert_close(answer.softmax(1), share * p + (1 - share) * q)
    torch.testing.assert_close(answer.logsumexp(1), torch.zeros(2)), "logarithms of probabilities"


@pytest.mark.parametrize(("weights", "share"), [(None, 0.5), ([3.0, 1.0], 0.75)])
def test_the_mean_of_logits(weights, share):
    answer = Ensemble([Says(FIRST), Says(SECOND)], "logits", weights)(NOTHING)
    torch.testing.assert_close(answer, share * torch.tensor(FIRST) + (1 - share) * torch.tensor(SECOND))


def test_certain_members_that_contradict_each_other_stay_finite():
    answer = Ensemble([Says([[1e4, 0.0]]), Says([[0.0, 1e4]])], "probabilities")(NOTHING)
    torch.testing.assert_close(answer, torch.full((1, 2), -math.log(2)))


@pytest.fixture
def members(tmp_path, monkeypatch) -> dict[str, nn.Module]:
    """Random networks in the store, one of them a variant."""
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    networks = {}
    for seed, name in enumerate(("resnet8", "resnet8@other", "wrn_16_1")):
        torch.manual_seed(seed)
        networks[name] = create_model(name.partition("@")[0], 4).eval()
        path = stored("fake4", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(networks[name], path, {})
    return networks


def teacher_of(members: dict[str, nn.Module], **more):
    files = {name: str(stored("fake4", name)) for name in members}
    return ensemble_teacher("ensemble", list(members), 4, files, **more)


def plan(*overrides: str):
    choices = dict(item.split("=", 1) for item in overrides)
    return make_plan(compose_checked("train", list(overrides)), choices)


def test_members_answer_each_view_and_carry_no_gradient(members):
    teacher = teacher_of(members)
    torch.manual_seed(0)
    images, strong = torch.randn(2, 5, 3, 32, 32)
    nothing = torch.zeros(5, dtype=torch.int64)
    outputs = teacher(Batch(images, nothing, nothing, views={"strong": strong}))
    for answer, inputs in ((outputs.logits, images), (outputs.parts["strong"].logits, strong)):
        with torch.no_grad():
            mean = sum(network(inputs).softmax(1) for network in members.values()) / 3
        torch.testing.assert_close(answer.softmax(1), mean, rtol=1e-4, atol=1e-6)
        assert not answer.requires_grad


def test_in_bfloat16_the_members_answer_in_it_and_the_mean_is_float32(members):
    images, nothing = torch.randn(5, 3, 32, 32), torch.zeros(5, dtype=torch.int64)
    full, low = (
        teacher_of(members, bf16=bf16)(Batch(images, nothing, nothing)).logits for bf16 in (False, True)
    )
    assert low.dtype == torch.float32
    assert not torch.equal(full, low)
    torch.testing.assert_close(full, low, rtol=0.1, atol=0.1)


def test_the_hash_says_who_and_how(members):
    teachers = [
        teacher_of(members),
        teacher_of(dict(list(members.items())[:2])),
        teacher_of(members, average="logits"),
    ]
    teachers += [teacher_of(members, weights=[1.0, 1.0, 2.0])]
    assert len({teacher.hash for teacher in teachers}) == 4
    assert teacher_of(members, weights=[2.0, 2.0, 2.0]).hash == teachers[0].hash


def test_a_run_with_an_ensemble(members, tmp_path):
    overrides = [
        *TINY,
        "teacher=ensemble",
        "teacher.members=[resnet8,resnet8@other]",
        "loss=mlkd",
        f"output={tmp_path}",
    ]
    record = run(plan(*overrides))
    assert record["state"] == "done"
    assert record["names"]["teacher"] == record["teacher"]["name"] == "resnet8+resnet8@other"
    assert record["teacher"]["file"] == "resnet8.safetensors, resnet8@other.safetensors"
    (folder,) = tmp_path.glob("fake-resnet8+resnet8@other-resnet8-mlkd-s0-*")
    assert folder.is_dir()


def test_who_is_asked_is_part_of_the_identity(members, tmp_path):
    common = [
        *TINY,
        "teacher=ensemble",
        "teacher.members=[resnet8,wrn_16_1]",
        "loss=kd",
        f"output={tmp_path}",
    ]
    for more in ([], ["teacher.average=logits"], ["teacher.weights=[1,3]"]):
        run(plan(*common, *more))
    assert len(list(tmp_path.glob("*/record.json"))) == 3
    elsewhere = tmp_path / "elsewhere.safetensors"
    elsewhere.write_bytes(stored("fake4", "resnet8").read_bytes())
    run(plan(*common, f"teacher.checkpoints={{resnet8:{elsewhere}}}"))
    assert len(list(tmp_path.glob("*/record.json"))) == 3, "the same weights from another file"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["loss=at"], "an ensemble has logits only, and at needs more of its teacher: stage"),
        (["loss=simkd"], "an ensemble has logits only, and simkd"),
        (["loss=r2kd"], "an ensemble has logits only, and r2kd"),
        (["loss=ab"], "an ensemble has logits only, and ab"),
        (["loss=kd", "teacher.weights=[1]"], "a positive number for each of resnet8, wrn_16_1"),
        (["loss=kd", "teacher.weights=[1,0]"], "a positive number"),
        (["loss=kd", "teacher.members=[resnet8,resnet8]"], "each one once"),
        (["loss=kd", "teacher.members=[]"], "at least one"),
        (["loss=kd", "teacher.average=votes"], "teacher.average"),
        (
            ["loss=kd", "teacher.checkpoints={vgg8:x}"],
            "teacher.checkpoints names vgg8; the members are resnet8",
        ),
        (["loss=kd", "teacher.members=[resnet8,vgg88]"], "vgg8"),
        (
            ["loss=kd", "teacher.members=[resnet8,vgg8]"],
            "kdbench train-teacher dataset=fake.* teacher=vgg8 schedule",
        ),
    ],
)
def test_mistakes_are_said(members, more, words, tmp_path):
    first = (
        []
        if any(word.startswith("teacher.members") for word in more)
        else ["teacher.members=[resnet8,wrn_16_1]"]
    )
    with pytest.raises(ValueError, match=words):
        run(plan(*TINY, "teacher=ensemble", *first, *more, f"output={tmp_path / 'runs'}"))
    assert not (tmp_path / "runs").exists()


def test_networks_of_other_classes_are_no_ensemble(tmp_path):
    for name in ("a", "b"):
        save_weights(create_model("resnet8", 2), tmp_path / f"{name}.safetensors", {"classes": [name, "c"]})
    files = {"resnet8": str(tmp_path / "a.safetensors"), "resnet8@b": str(tmp_path / "b.safetensors")}
    with pytest.raises(ValueError, match="other classes"):
        ensemble_teacher("ensemble", list(files), 2, files)
