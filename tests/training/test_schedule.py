import pytest
import torch

from kdbench.training.schedule import Schedule


def cifar240(**changes):
    settings = {
        "epochs": 240,
        "batch_size": 64,
        "lr": 0.05,
        "milestones": [150, 180, 210],
        "milestones_for": 240,
    }
    return Schedule(**(settings | changes))


def test_the_rate_drops_when_the_epoch_exceeds_a_milestone():
    rates = {epoch: cifar240().lr_at(epoch, 0, 782) for epoch in (1, 150, 151, 180, 181, 210, 211, 240)}
    expected = {1: 0.05, 150: 0.05, 151: 5e-3, 180: 5e-3, 181: 5e-4, 210: 5e-4, 211: 5e-5, 240: 5e-5}
    assert rates == pytest.approx(expected)


def test_one_cycle_rises_to_the_rate_and_falls_to_nearly_nothing():
    schedule = Schedule(epochs=10, batch_size=64, lr=0.1, plan="one_cycle")
    rates = [schedule.lr_at(epoch, step, 50) for epoch in range(1, 11) for step in range(50)]
    peak = rates.index(max(rates))
    assert peak in (99, 100)
    assert max(rates) == pytest.approx(0.1, rel=0.01)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_one_cycle_without_warm_up_only_falls():
    schedule = Schedule(epochs=1, batch_size=64, lr=0.1, plan="one_cycle", warmup=0)
    assert [schedule.lr_at(1, step, 2) for step in range(2)] == pytest.approx([0.075, 0.025])


def test_cosine_is_constant_within_an_epoch():
    schedule = Schedule(epochs=20, batch_size=64, lr=0.05, plan="cosine")
    assert schedule.lr_at(1, 0, 5) == schedule.lr_at(1, 4, 5) == 0.05
    assert schedule.lr_at(11, 0, 5) == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"epochs": 480},
            "made for 240 epochs; give schedule.milestones=[300,360,420] schedule.milestones_for=480",
        ),
        ({"epochs": 10}, "made for 240 epochs"),
        ({"milestones": [240]}, "must lie within the 240 epochs"),
        ({"batch_size": 0}, "schedule.batch_size must be at least 1, got 0"),
        ({"epochs": 0}, "schedule.epochs must be at least 1"),
        ({"lr": float("nan")}, "schedule.lr must be positive"),
        ({"plan": "steps"}, "possible: step, one_cycle, cosine, linear, constant"),
        ({"warmup": 1.0}, "schedule.warmup"),
    ],
)
def test_impossible_schedules_say_what_is_wrong(changes, words):
    with pytest.raises(ValueError) as caught:
        cifar240(**changes)
    assert words in str(caught.value)


def test_one_sgd_for_all_that_learns():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).requires_grad_(False))
    (group,) = cifar240().optimizer(network).param_groups
    assert len(group["params"]) == 2
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 5e-4, False)
