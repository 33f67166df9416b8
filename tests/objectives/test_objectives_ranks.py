"""Two gloo processes and one: the same gradient on the joined batch, rows split unevenly."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from kdbench.distributed.collectives import reduce_gradients, world_size
from kdbench.losses.composite import Loss
from kdbench.models.features import answer_batch, feature_names
from kdbench.models.registry import create_model
from tests.objectives.cases import Sides, bound, sides
from tests.objectives.test_objectives_contract import ON_IMAGES, build, every_objective

SPLIT = (5, 3)


def network() -> torch.nn.Module:
    """A student with BatchNorm in eval mode: the ranks' statistics are not the subject here."""
    torch.manual_seed(0)
    return create_model("resnet8", 10).double().eval()


def loss_of(name: str, case: Sides) -> Loss:
    loss = Loss({"ce": 0.1, "it": 1.0}, {"it": bound(build(name), case)})
    if loss.terms["it"].extra_forward(1) is not None:
        loss.terms["it"].receive_extra_forward(1, [(case.student.logits, case.batch.target)])
    return loss.double().eval() if name != "crd" else loss.double()


def gradients(name: str, case: Sides) -> tuple[list[Tensor], list[Tensor]]:
    """By the student's parameters and the objective's own, the mean over ranks where there are several; and the
    objective's buffers afterwards."""
    student, loss = network(), loss_of(name, case)
    answer = answer_batch(student, case.batch, feature_names(student))
    total, _ = loss(answer, case.teacher, case.batch)
    total.backward()
    parameters = [p for p in (*student.parameters(), *loss.parameters()) if p.requires_grad]
    if world_size() > 1:
        reduce_gradients(parameters)
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return found, [buffer.clone() for buffer in loss.buffers()]


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=len(SPLIT))
    start = sum(SPLIT[:rank])
    uneven = sides().rows(torch.arange(start, start + SPLIT[rank]))
    # rank 1 has no row, and is shown the last one in its place
    one_sided = sides().rows(torch.arange(8) if rank == 0 else torch.tensor([7]))
    one_sided = replace(one_sided, batch=replace(one_sided.batch, shares=(8, 0)))
    found = {}
    for name in ON_IMAGES:
        found[name] = [gradients(name, case) for case in (uneven, one_sided)]
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (folder,), nprocs=len(SPLIT))
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(SPLIT))]


@every_objective
def test_the_mean_over_ranks_is_the_gradient_on_all_rows(name, two_ranks):
    expected, buffers = gradients(name, sides())
    for found, kept in (case for rank in two_ranks for case in rank[name]):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)
        torch.testing.assert_close(kept, buffers, rtol=1e-7, atol=1e-10)


def test_the_judge_sees_a_coupled_loss_that_is_not_gathered(two_ranks):
    """DIST on each rank's own rows is another gradient: the comparison above can fail."""
    halves = [gradients("dist", sides().rows(torch.arange(*span)))[0] for span in ((0, 5), (5, 8))]
    local = [(5 * a + 3 * b) / 8 for a, b in zip(*halves, strict=True)]
    joined = two_ranks[0]["dist"][0][0]
    assert max((a - b).abs().max() for a, b in zip(local, joined, strict=True)) > 1e-3
