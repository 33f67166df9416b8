import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdbench.objectives.reviewkd import Fusion, ReviewKD, hcl_loss, reviewkd_loss
from tests.objectives.cases import assert_same, bound, normal, sides, term, value_and_gradients

S = torch.arange(1, 97, dtype=torch.float64).sin().view(2, 3, 4, 4)
T = 2 * torch.arange(96, dtype=torch.float64).cos().view(2, 3, 4, 4)


def formula(student: Tensor, teacher: Tensor) -> Tensor:
    """Both maps pooled on their own, with running weights."""
    value, weight, total = ((student - teacher) ** 2).mean(), 1.0, 1.0
    for grid in (4, 2, 1):
        if grid < student.shape[-1]:
            weight /= 2
            pooled = [F.adaptive_avg_pool2d(maps, grid) for maps in (student, teacher)]
            value, total = value + weight * ((pooled[0] - pooled[1]) ** 2).mean(), total + weight
    return value / total


def split(maps: Tensor) -> list[Tensor]:
    """Maps of 5, 3, 2 and 1 cells a side out of rows of 39 numbers."""
    parts = maps.split([25, 9, 4, 1], dim=1)
    return [part.view(-1, 1, side, side) for part, side in zip(parts, (5, 3, 2, 1), strict=True)]


def test_worked_value():
    """X57."""
    assert hcl_loss(S, T).item() == pytest.approx(0.499777476089, abs=1e-9)


def test_value_and_gradient_are_the_formulas():
    teacher, student = split(normal(1, 3, 39)), normal(0, 3, 39)

    def levels(s: Tensor) -> Tensor:
        return sum(formula(ours, theirs) for ours, theirs in zip(split(s), teacher, strict=True))

    assert_same(lambda s: reviewkd_loss(split(s), teacher), levels, student)


@given(st.integers(0, 1000))
def test_a_constant_difference_counts_as_its_square_at_any_size(seed):
    maps = normal(seed, 2, 24).view(2, 3, 2, 4)
    assert hcl_loss(maps, maps) == 0
    assert hcl_loss(maps + 3, maps).item() == pytest.approx(9)
    assert hcl_loss(maps.flip(0), maps) >= 0


def chain(objective: ReviewKD, student: list[Tensor], teacher: list[Tensor]) -> list[Tensor]:
    """The fused outputs, deepest first, spelt out; maps are deepest last."""
    outputs, above = [], None
    for fuse, x, target in reversed(list(zip(objective.fusions, student, teacher, strict=True))):
        x = fuse.enter(x)
        if above is not None:
            above = F.interpolate(above, size=x.shape[-2:], mode="nearest")
            both = torch.sigmoid(fuse.attention(torch.cat([x, above], dim=1)))
            x = both[:, 0:1] * x + both[:, 1:2] * above
        above = F.interpolate(x, size=target.shape[-2:], mode="nearest")
        outputs.append(fuse.leave(above))
    return outputs


@pytest.mark.parametrize("pair", [("resnet8", "resnet20"), ("ShuffleV1", "wrn_16_2")])
def test_the_chain_reviews_from_deep_to_shallow(pair):
    """The second student's maps are half as large as the teacher's."""
    case = sides(student=pair[0], teacher=pair[1])
    objective = bound(ReviewKD(), case)
    assert objective.student_features == ("stage1", "stage2", "stage3", "pooled")
    assert objective.teacher_features == ("stage1.pre", "stage2.pre", "stage3.pre", "pooled")
    ours, theirs = (
        case.student.select_features(objective.student_features),
        case.teacher.select_features(objective.teacher_features),
    )
    ours, theirs = [*ours[:-1], ours[-1][..., None, None]], [*theirs[:-1], theirs[-1][..., None, None]]
    fused = chain(objective, ours, theirs)
    assert [tuple(record.shape) for record in reversed(fused)] == [tuple(record.shape) for record in theirs]
    expected = sum(formula(a, b) for a, b in zip(fused, reversed(theirs), strict=True))
    torch.testing.assert_close(objective(case.student, case.teacher, case.batch), expected)


def test_the_deepest_level_moves_every_output():
    """What the pooled vector says arrives at the shallowest level."""
    case = sides()
    objective = bound(ReviewKD(), case).eval()
    objective.fusions[-1].enter[1].bias.data += 1
    assert term(objective, case) != term(bound(ReviewKD(), case).eval(), case)
    assert objective.fusions[-1].attention is None
    assert all(fuse.attention is not None for fuse in objective.fusions[:-1])


@pytest.mark.parametrize(
    ("mid", "student", "expected"), [(512, "resnet8", 64), (512, "MobileNetV2", 512), (16, "vgg8", 16)]
)
def test_the_width_is_the_pooled_vectors_up_to_mid(mid, student, expected):
    case = sides(student=student, teacher="vgg8") if student != "resnet8" else sides()
    objective = bound(ReviewKD(mid=mid), case)
    assert {fuse.enter[0].out_channels for fuse in objective.fusions} == {expected}
    assert term(objective.eval(), case).isfinite()


@pytest.mark.parametrize("student", ["resnet8", "vgg8"])
def test_a_last_batch_of_one_row_trains(student):
    """Its pooled vector (vgg8's deepest map too) is one value per channel, which has no variance."""
    case = sides(student=student, teacher="resnet20" if student == "resnet8" else "vgg8")
    objective = bound(ReviewKD(), case).train()
    deepest = objective.fusions[-1].enter[1]
    before = deepest.running_mean.clone()
    value, gradients = value_and_gradients(objective, case.rows(torch.tensor([0])))
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)
    objective(case.student, case.teacher, case.batch)
    assert not torch.equal(deepest.running_mean, before)  # of more rows it learns as ever


def test_convolutions_start_as_kaiming_uniform():
    fuse = Fusion(64, 32, 48, reviews=True)
    for convolution, fan_in in ((fuse.enter[0], 64), (fuse.leave[0], 9 * 32)):
        bound_ = (3 / fan_in) ** 0.5
        assert convolution.bias is None
        assert 0.95 * bound_ < convolution.weight.abs().max() <= bound_


def test_the_student_before_its_relu_as_on_imagenet():
    case = sides()
    objective = bound(ReviewKD(student_pre=True), case)
    assert objective.student_features == objective.teacher_features
    assert term(objective, case) != term(bound(ReviewKD(), case), case)


def test_refuses():
    with pytest.raises(ValueError, match="mid must be finite and at least 1, got 0"):
        ReviewKD(mid=0)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        reviewkd_loss([S, S], [T])
