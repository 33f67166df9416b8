"""Two gloo processes compared with one: shares, decisions, metrics, extra forward passes, students, resuming."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from kdbench.core.errors import Interrupted, RunError
from kdbench.data.images.image_data import ImageData
from kdbench.data.sources.synthetic import fake
from kdbench.distributed.collectives import (
    agreed,
    any_rank,
    own_rows,
    rank,
    reduce_gradients,
    share_statistics,
    shares,
    world_size,
)
from kdbench.losses.composite import Loss
from kdbench.metrics.classification import ClassificationScores
from kdbench.metrics.conditional_mutual_information import ClassSpread
from kdbench.models.checkpoints import save_weights
from kdbench.models.features import answer_batch
from kdbench.models.registry import create_model
from kdbench.objectives import create
from kdbench.runs.execute import run_cohort
from kdbench.runs.hydra_setup import register
from kdbench.runs.identity import recipe_of
from kdbench.runs.plan import make_plan
from kdbench.training.evaluation import evaluate
from kdbench.training.extra_forwards import ExtraForwards
from tests.helpers.composition import compose_checked

register()

WORLD = 2
TINY = ["dataset=fake", "dataset.train=97", "dataset.test=131", "schedule=quick", "schedule.batch_size=16"]
TINY += ["schedule.epochs=2", "teacher=resnet8", "student=resnet8", "loss=crd", "threads=1", "progress=false"]
TINY += ["log_every=2", "trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={WORLD}"]


# ---- computed by one process, and by each of two


def decisions() -> dict[str, object]:
    def refuse() -> None:
        raise RunError(f"rank {rank()} says no")

    said = ""
    try:
        agreed(refuse)
    except RunError as error:
        said = str(error)
    rows = own_rows(10, 17)
    mine = list(range(rows.start, rows.stop))
    return {"agreed": (agreed(lambda: rank()), said), "any": any_rank(rank() == 1, False), "rows": mine}


def scores(size: int) -> tuple[dict[str, float], list[float | None]]:
    generator = torch.Generator().manual_seed(size)
    logits, teacher = torch.randn(2, size, 7, generator=generator)
    target, own = torch.randint(7, (size,), generator=generator), own_rows(0, size)
    metric = ClassificationScores(7, {"head": [0, 1], "tail": [5, 6]})
    for first in range(own.start, own.stop, 50):
        rows = slice(first, min(first + 50, own.stop))
        metric.add(logits[rows], target[rows], teacher[rows])
    return metric.compute(), metric.recall


def images() -> ImageData:
    """20 images in steps of 6: the last has two."""
    data = fake(train=20, test=131, seed=3, batch_size=6, eval_batch_size=20)
    data.setup()
    return data


def network(seed: int) -> torch.nn.Module:
    """With BatchNorm in eval mode: otherwise the ranks' statistics would differ."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return create_model("resnet8", 4).double().eval()


def trained() -> list[Tensor]:
    """A student's weights after an epoch with a separable and a coupled objective."""
    data, student, teacher = images(), network(0), network(1)
    loss = Loss({"ce": 1.0, "kd": 1.0, "dist": 2.0}, {"kd": create("kd"), "dist": create("dist")})
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-3, momentum=0.9)
    for step in range(data.steps_per_epoch):
        batch = data.train_batch(1, step)
        inputs = batch.inputs.double()
        with torch.no_grad():
            answer = answer_batch(teacher, SimpleNamespace(inputs=inputs, views={}), ())
        own = answer_batch(student, SimpleNamespace(inputs=inputs, views={}), ())
        total, _ = loss(own, answer, batch)
        optimizer.zero_grad()
        total.backward()
        if world_size() > 1:
            reduce_gradients(student.parameters())
        optimizer.step()
    return [parameter.detach() for parameter in student.parameters()]


def surveyed(mode: str) -> list[Tensor]:
    """MCMI's centroids after two extra forward passes, and the CMI on the training images."""
    data, student = images(), network(0).float()
    loss = Loss({"ce": 1.0, "mcmi": 0.1}, {"mcmi": create("mcmi", mode=mode)})
    term = loss.terms["mcmi"]
    term.register_buffer("centroids", torch.full((4, 4), 0.25, dtype=torch.float64))
    extra_forwards = ExtraForwards(data, 3, bf16=False)
    for step in range(2):
        extra_forwards.before(SimpleNamespace(model=student, loss=loss), 1, step)
    spread = evaluate(student, data, "train", metric=ClassSpread(4, term.centroids))
    return [term.centroids, torch.tensor(list(spread.values()), dtype=torch.float64)]


def statistics() -> list[Tensor]:
    norm = torch.nn.BatchNorm2d(2)
    norm.running_mean.fill_(rank() + 5.0)
    share_statistics(torch.nn.Sequential(norm))
    return [norm.running_mean]


def found() -> dict[str, object]:
    extra_forwards = [surveyed(mode) for mode in ("epoch", "ema")]
    return {
        "decisions": decisions(), "scores": scores(131), "student": trained(), "surveys": extra_forwards,
        "statistics": statistics(),
    }  # fmt: skip


# ---- a run


class StopsOnRank1(Callback):
    """Request a stop on one rank in the middle of a chunk, as a signal does."""

    def on_train_batch_start(self, trainer, module, *_):
        if rank() == 1 and module.position == (2, 2):
            module.stop_requested = True


def run(folder: Path, *overrides: str, watchers=()) -> dict[str, Tensor]:
    words = [*TINY, f"teacher.checkpoint={folder}/teacher.safetensors", *overrides]
    (member,) = run_cohort([make_plan(compose_checked("train", words), {})], watchers)
    return (
        {}
        if member.training is None
        else {k: v.clone() for k, v in member.training.student.state_dict().items()}
    )


def runs(folder: Path) -> dict[str, object]:
    whole = run(folder, f"output={folder}/whole")
    said = ""
    try:
        run(folder, f"output={folder}/broken", watchers=[StopsOnRank1()])
    except Interrupted as error:
        said = str(error)
    resumed = run(folder, f"output={folder}/broken", "resume=true")
    again = run(folder, f"output={folder}/whole")
    return {"whole": whole, "said": said, "resumed": resumed, "again": again}


def work(number: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(number), "KDBENCH_HOME": str(folder / "home")}
    dist.init_process_group("gloo", f"file://{folder}/store", rank=number, world_size=WORLD)
    torch.save(found() | runs(folder), folder / f"{number}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    torch.manual_seed(0)
    save_weights(create_model("resnet8", 4), folder / "teacher.safetensors", {"model": "resnet8"})
    mp.spawn(work, (folder,), nprocs=WORLD)
    return folder


@pytest.fixture(scope="module")
def ranks(folder) -> list[dict]:
    return [torch.load(folder / f"{number}.pt", weights_only=False) for number in range(WORLD)]


def test_ranks_share_the_result_of_rank_0(ranks):
    for mine in ranks:
        assert mine["decisions"]["agreed"] == (0, "rank 0 says no")
        assert mine["decisions"]["any"] == [True, False]
        assert mine["statistics"][0].tolist() == [5.0, 5.0]
    assert [mine["decisions"]["rows"] for mine in ranks] == [[10, 11, 12, 13], [14, 15, 16]]


def test_metrics_equal_those_of_one_process_without_padding(ranks):
    """131 rows do not divide by 2."""
    expected, recall = scores(131)
    for mine in ranks:
        assert mine["scores"][0] == pytest.approx(expected, abs=2e-4)
        assert {mine["scores"][0][key] - expected[key] for key in ("top1", "top5", "agreement")} == {0}
        assert mine["scores"][1] == recall


def test_student_with_batchnorm_in_eval_mode_equals_that_of_one_process(ranks):
    expected = trained()
    for mine in ranks:
        torch.testing.assert_close(mine["student"], expected, rtol=1e-9, atol=1e-11)


def test_extra_forwards_and_class_spread_equal_those_of_one_process(ranks):
    expected = [surveyed(mode) for mode in ("epoch", "ema")]
    for mine in ranks:
        torch.testing.assert_close(mine["surveys"], expected, rtol=1e-5, atol=1e-6)


def test_stop_request_on_one_rank_stops_all_and_resumes_to_the_bit(ranks, folder):
    first, second = ranks
    assert first["said"] == second["said"] == "stopped at epoch 2, step 4, with a checkpoint"
    parameters = [name for name in first["whole"] if "running" not in name]
    assert all(torch.equal(first["whole"][name], second["whole"][name]) for name in parameters)
    assert all(torch.equal(first["whole"][name], first["resumed"][name]) for name in first["whole"])
    assert first["again"] == second["again"] == {}  # finished: no rank repeats it


def test_only_rank_0_writes_the_run_folder(folder):
    (whole,), (broken,) = (list((folder / name).iterdir()) for name in ("whole", "broken"))
    assert whole.name == broken.name
    lines = (whole / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 10  # four chunks and an epoch, twice; the last chunk has one step of one row
    assert (whole / "state.pt").is_file()


def test_shares_are_even_and_complete():
    assert (shares(7), own_rows(2, 5)) == ((7,), slice(2, 5))


def test_number_of_ranks_is_part_of_the_identity_unless_it_is_one():
    def recipe(*overrides: str) -> dict:
        return recipe_of(make_plan(compose_checked("train", [*TINY, *overrides]), {}).config)

    one, plain = recipe("trainer.devices=1"), recipe("trainer=cpu", "trainer.devices=1")
    assert "world" not in plain
    assert one == plain
    assert recipe() == {**plain, "world": 2}
    assert recipe("trainer.num_nodes=3")["world"] == 6
