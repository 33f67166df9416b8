from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdbench.core.objective import Probes
from kdbench.core.types import Batch, Outputs
from kdbench.models.registry import create_model
from kdbench.objectives.vitkd import ViTKD, vitkd_loss
from tests.objectives.cases import assert_same, bound, normal, sides, term

TAPS = ("stage1", "stage2", "stage6")


def split(maps: Tensor) -> list[Tensor]:
    """Three maps out of rows of 54 numbers."""
    return list(maps.view(-1, 3, 2, 3, 3).unbind(1))


def formula(
    student: list[Tensor], teacher: list[Tensor], mask: Tensor, alpha: float, beta: float, ratio: float
) -> Tensor:
    """Row by row and token by token."""
    total = torch.zeros((), dtype=student[0].dtype)
    for row in range(len(mask)):
        for s, t in zip(student[:-1], teacher[:-1], strict=True):
            total = total + alpha * ((s[row] - t[row]) ** 2).sum()
        for y, x in mask[row].nonzero().tolist():
            total = (
                total + beta / ratio * ((student[-1][row, :, y, x] - teacher[-1][row, :, y, x]) ** 2).sum()
            )
    return total / len(mask)


def vits(blocks: int = 64, grid: int = 3) -> tuple[ViTKD, Outputs, Outputs, Batch]:
    """The objective bound to timm's smallest ViT as the teacher, and maps as it would give them."""
    objective = ViTKD()
    objective.student_features = objective.teacher_features = TAPS
    answers = [
        Outputs(
            torch.zeros(4, 9),
            {
                record: normal(seed + k, 4, width * grid**2).view(4, width, grid, grid)
                for k, record in enumerate(TAPS)
            },
        )
        for seed, width in ((0, blocks), (10, 64))
    ]
    torch.manual_seed(0)
    objective.setup(
        torch.nn.Identity(), create_model("timm/test_vit", 9), Probes(*answers), sides().dataset_info
    )
    batch = Batch(torch.zeros(4), torch.zeros(4, dtype=torch.int64), torch.arange(4), epoch=2, step=7)
    return objective.double(), *answers, batch


def drawing(key: int, ratio: float = 0.5) -> ViTKD:
    objective = ViTKD(ratio=ratio)
    objective.register_buffer("key", torch.tensor(key))
    return objective


def test_by_hand():
    """Differences of 1 everywhere: 2 channels, 9 tokens, 4 of them masked in the first row and 2 in the second."""
    mask = torch.zeros(2, 3, 3, dtype=torch.bool)
    mask[0, :2, :2] = mask[1, 0, :2] = True
    maps = [torch.zeros(2, 2, 3, 3)] * 3
    value = vitkd_loss([record + 1 for record in maps], maps, mask, alpha=0.1, beta=0.01, ratio=0.25)
    assert value.item() == pytest.approx(0.1 * 2 * 18 + 0.01 / 0.25 * (8 + 4) / 2)


def test_value_and_gradient_are_the_formulas():
    teacher, mask = split(normal(1, 3, 54)), normal(2, 3, 9).view(3, 3, 3) > 0
    arguments = (teacher, mask, 0.3, 0.2, 0.4)
    student = normal(0, 3, 54)
    assert_same(lambda s: vitkd_loss(split(s), *arguments), lambda s: formula(split(s), *arguments), student)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75, 1.0])
def test_every_row_has_the_same_number_of_masked_tokens(ratio):
    mask = drawing(3, ratio).mask(sides().batch, 4, 5)
    assert mask.shape == (8, 4, 5)
    assert set(mask.sum((1, 2)).tolist()) == {20 - int(20 * (1 - ratio))}


@given(st.integers(0, 2**62), st.integers(1, 300), st.integers(0, 1000))
def test_masks_come_from_key_epoch_step_and_sample_alone(key, epoch, step):
    batch = Batch(torch.zeros(4), torch.zeros(4), torch.tensor([5, 0, 7, 49_999]), epoch=epoch, step=step)
    mask = drawing(key).mask(batch, 6, 6)
    assert torch.equal(drawing(key).mask(replace(batch, index=batch.index.flip(0)), 6, 6), mask.flip(0))
    assert len({tuple(row.flatten().tolist()) for row in mask}) == 4
    for other in (replace(batch, epoch=epoch + 1), replace(batch, step=step + 1)):
        assert not torch.equal(drawing(key).mask(other, 6, 6), mask)
    assert not torch.equal(drawing(key + 1).mask(batch, 6, 6), mask)


def test_tokens_are_masked_equally_often():
    batch = replace(sides().batch, index=torch.arange(4000))
    often = drawing(3).mask(batch, 3, 3).double().mean(0)
    torch.testing.assert_close(often, torch.full_like(often, 5 / 9), rtol=0, atol=0.04)


def test_what_is_masked_cannot_be_seen():
    """The deepest map counts only through the tokens that are left."""
    objective, student, teacher, batch = vits(blocks=32)
    mask = objective.mask(batch, 3, 3)[:, None]
    leaf = student.features["stage6"].requires_grad_()
    (gradient,) = torch.autograd.grad(objective(student, teacher, batch), leaf)
    assert (gradient[mask.expand_as(gradient)] == 0).all()
    assert (gradient[~mask.expand_as(gradient)] != 0).all()


def test_all_of_it_spelt_out():
    objective, student, teacher, batch = vits(blocks=32)
    s, t = student.select_features(TAPS), teacher.select_features(TAPS)
    mask = objective.mask(batch, 3, 3)
    linear = [
        torch.einsum("oi,nihw->nohw", a.weight[..., 0, 0], x) + a.bias[:, None, None]
        for a, x in zip(objective.aligners, s, strict=True)
    ]
    masked = linear[2].clone()
    masked.movedim(1, -1)[mask] = objective.mask_token.flatten()
    tokens = t[2].movedim(1, -1)
    spread = tokens.var(-1, correction=0, keepdim=True) + objective.norm.eps
    target = ((tokens - tokens.mean(-1, keepdim=True)) / spread.sqrt()).movedim(-1, 1)
    expected = formula([*linear[:2], objective.generator(masked)], [*t[:2], target], mask, 3e-5, 3e-6, 0.5)
    torch.testing.assert_close(objective(student, teacher, batch), expected)


def test_nothing_is_aligned_where_widths_agree_and_the_norm_is_frozen():
    objective = vits()[0]
    learned = {
        key.split(".")[0] for key, parameter in objective.named_parameters() if parameter.requires_grad
    }
    assert learned == {"mask_token", "generator"}
    assert not objective.mask_token.any()
    assert {name.split(".")[0] for name, _ in vits(blocks=32)[0].named_parameters()} >= {"aligners", "norm"}


def test_a_restored_key_draws_the_same_masks():
    case = sides()
    first, other = bound(ViTKD(), case), bound(ViTKD(), case)
    other.key += 1
    assert term(first, case) != term(other, case)
    other.load_state_dict(first.state_dict())
    assert term(first, case) == term(other, case)


def test_refuses():
    for wrong in ({"alpha": -1.0}, {"beta": float("nan")}, {"ratio": 0.0}, {"ratio": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ViTKD(**wrong)
    with pytest.raises(ValueError, match=r"the student.s are \[\[8, 8\].* the teacher.s \[\[16, 16\]"):
        bound(ViTKD(), sides(student="ShuffleV1", teacher="resnet20"))
