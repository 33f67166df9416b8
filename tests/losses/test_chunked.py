"""A loss in chunks of rows is the loss of all rows: value, parts and every gradient."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.functional import linear

from kdbench import objectives
from kdbench.core.logits import ProjectedLogits
from kdbench.core.types import Batch, Outputs
from kdbench.losses import chunked
from kdbench.losses.composite import Loss

ROWS, CLASSES, WIDTH = 23, 40, 6
TERMS = ("fkl", "rkl", "js", "sfkl", "srkl", "tvd", "wsd", "akl", "kd", "nkd", "dkd", "lskd", "wttm")


def loss_of(name: str) -> Loss:
    parameters = {
        "alphanet": {"alpha": 0.0, "beta": 1.0},
        "abkd": {"alpha": 0.2, "beta": 0.7},
        "wttm": {"gamma": 0.3},
    }
    return Loss({"ce": 0.3, name: 2.0}, {name: objectives.create(name, **parameters.get(name, {}))})


def sides(dtype: torch.dtype = torch.float64) -> tuple[ProjectedLogits, ProjectedLogits, Batch]:
    """A student's and a teacher's features and heads, the teacher's wider, for tokens in a random order."""
    draw = torch.Generator().manual_seed(0)

    def head(width: int, bias: bool) -> ProjectedLogits:
        sizes = [(ROWS, width), (CLASSES, width), (CLASSES,)]
        made = [torch.randn(*size, generator=draw, dtype=torch.float64).to(dtype) for size in sizes]
        return ProjectedLogits(made[0], made[1], made[2] if bias else None)

    target = torch.randint(CLASSES, (ROWS,), generator=draw)
    return head(WIDTH, bias=True), head(WIDTH + 2, bias=False), Batch(target, target, torch.arange(ROWS))


def leaves(answer: ProjectedLogits) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in (answer.hidden, answer.weight, answer.bias)]


def whole(loss: Loss, of: list[Tensor], teacher: ProjectedLogits, batch: Batch):
    return loss(Outputs(linear(*of)), Outputs(teacher.dense()), batch)


@pytest.fixture
def few(monkeypatch):
    """Five rows at once, and nothing is so small that it is left whole."""
    monkeypatch.setattr(chunked, "chunk_rows", lambda _: 5)
    monkeypatch.setattr("kdbench.losses.composite.chunk_rows", lambda _: 5)


@pytest.mark.parametrize("name", [*TERMS, "alphanet", "abkd"])
def test_value_parts_and_gradients_are_those_of_the_whole(name, few):
    student, teacher, batch = sides()
    loss = loss_of(name)
    ours, theirs = leaves(student), leaves(student)
    total, parts = loss(Outputs(ProjectedLogits(*ours)), Outputs(teacher), batch)
    expected, expected_parts = loss._evaluate(
        Outputs(linear(*theirs)), Outputs(teacher.dense()), batch, [ROWS]
    )
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(parts, expected_parts)
    (3 * total).backward()
    (3 * expected).backward()
    torch.testing.assert_close([leaf.grad for leaf in ours], [leaf.grad for leaf in theirs])
    assert all(not part.requires_grad for part in parts.values())


@pytest.mark.parametrize("name", ["fkl", "akl"])
def test_of_logits_too(name, few):
    student, teacher, batch = sides()
    loss = loss_of(name)
    ours, theirs = (student.dense().requires_grad_() for _ in range(2))
    total, _ = loss(Outputs(ours), Outputs(teacher.dense()), batch)
    expected, _ = loss._evaluate(Outputs(theirs), Outputs(teacher.dense()), batch, [ROWS])
    total.backward()
    expected.backward()
    torch.testing.assert_close((total, ours.grad), (expected, theirs.grad))


def test_learned_parts_of_a_loss_have_their_gradient(few):
    """CTKD's temperature, which all rows share, and gradients that nobody asks for are not made."""
    student, teacher, batch = sides(torch.float32)
    found = []
    for rows in (True, False):
        loss = loss_of("ctkd")
        loss.terms["ctkd"].setup(torch.nn.Identity(), torch.nn.Identity(), None, None)
        answer = Outputs(student.dense().requires_grad_())
        assert loss.separable
        value = (
            loss(answer, Outputs(teacher), batch)
            if rows
            else loss._evaluate(answer, Outputs(teacher.dense()), batch, [ROWS])
        )[0]
        value.backward()
        found.append([p.grad for p in loss.parameters()])
    assert found[0]
    assert all(grad.abs().sum() > 0 for grad in found[0])
    torch.testing.assert_close(*found)
    with torch.no_grad():
        assert not loss(Outputs(student), Outputs(teacher), batch)[0].requires_grad


def test_bfloat16_features_give_the_value_that_bfloat16_logits_give(few):
    student, teacher, batch = sides(torch.bfloat16)
    features, weight, bias = leaves(student)
    weight, bias = (t.detach().float().requires_grad_() for t in (weight, bias))  # as under autocast
    total, _ = loss_of("fkl")(Outputs(ProjectedLogits(features, weight, bias)), Outputs(teacher), batch)
    logits = linear(features, weight.bfloat16(), bias.bfloat16())
    expected, _ = loss_of("fkl")._evaluate(Outputs(logits), Outputs(teacher.dense()), batch, [ROWS])
    torch.testing.assert_close(total, expected)
    total.backward()
    assert (features.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)


def test_a_loss_that_couples_rows_sees_them_whole(few):
    student, teacher, batch = sides()
    loss = loss_of("dist")
    assert not loss.separable
    value, expected = (
        loss(one, Outputs(teacher.dense()), batch)[0] for one in (Outputs(student), Outputs(student.dense()))
    )
    torch.testing.assert_close(value, expected)


def test_few_logits_are_left_alone_and_many_are_not():
    features, weight = torch.zeros(4096, 2), torch.zeros(150_000, 2)
    assert chunked.chunk_rows(Outputs(ProjectedLogits(features, weight))) == chunked.CHUNK_LOGITS // 150_000
    assert chunked.chunk_rows(Outputs(torch.empty(4096, 150_000, device="meta"))) is not None
    assert chunked.chunk_rows(Outputs(torch.empty(256, 1000, device="meta"))) is None
    assert chunked.chunk_rows(Outputs(ProjectedLogits(features, torch.empty(10**9, 2, device="meta")))) == 1


# ---- every token weighs the same: gradient accumulation and ranks


CUTS = (0, 1, 1, 9, ROWS)
"""Parts of 1, no, 8 and 14 rows."""


def part(batch: Batch, start: int, stop: int) -> Batch:
    return replace(
        batch, inputs=batch.inputs[start:stop], target=batch.target[start:stop], index=batch.index[start:stop]
    )


def accumulated(
    name: str, of: list[Tensor], teacher: ProjectedLogits, batch: Batch, cuts: tuple[int, ...], rows: int
) -> float:
    """The gradients of uneven parts, added up in the leaves; the sum of their totals."""
    total = 0.0
    for start, stop in itertools.pairwise(cuts):
        span = slice(start, stop)
        answer = Outputs(ProjectedLogits(of[0][span], *of[1:]))
        value, _ = loss_of(name)(answer, Outputs(teacher.rows(span)), part(batch, start, stop), of_rows=rows)
        value.backward()
        total += value.item()
    return total


@pytest.mark.parametrize("name", ["fkl", "js"])
def test_accumulated_over_uneven_parts_is_the_mean_over_all_rows(name):
    student, teacher, batch = sides()
    ours, theirs = leaves(student), leaves(student)
    total = accumulated(name, ours, teacher, batch, CUTS, ROWS)
    expected, _ = whole(loss_of(name), theirs, teacher, batch)
    expected.backward()
    assert total == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close([leaf.grad for leaf in ours], [leaf.grad for leaf in theirs])
    means = [
        loss_of(name)(
            Outputs(student.rows(slice(a, b))), Outputs(teacher.rows(slice(a, b))), part(batch, a, b)
        )[0]
        for a, b in ((0, 1), (1, 9), (9, ROWS))
    ]
    assert abs(sum(means).item() / 3 - expected.item()) > 1e-3, "a mean of means is another number"


def test_a_loss_that_couples_rows_cannot_be_accumulated():
    student, teacher, batch = sides()
    with pytest.raises(ValueError, match="couples the rows"):
        loss_of("dist")(Outputs(student), Outputs(teacher), part(batch, 0, ROWS), of_rows=2 * ROWS)


def work(rank: int, folder: Path) -> None:
    """Rank 0 has 9 rows in parts of 1, 0 and 8, rank 1 the other 14 at once."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    student, teacher, batch = sides()
    mine = leaves(student)
    cuts = (0, 1, 1, 9) if rank == 0 else (9, 14, ROWS, ROWS)  # as many parts on each rank, as DDP needs
    accumulated("fkl", mine, teacher, batch, cuts, cuts[-1] - cuts[0])
    gradients = [leaf.grad for leaf in mine]
    for gradient in gradients:  # as DDP does
        dist.all_reduce(gradient)
        gradient /= 2
    torch.save(gradients, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_with_uneven_parts_have_the_gradient_of_all_rows(tmp_path):
    mp.spawn(work, (tmp_path,), nprocs=2)
    student, teacher, batch = sides()
    expected = leaves(student)
    whole(loss_of("fkl"), expected, teacher, batch)[0].backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found, [leaf.grad for leaf in expected])
