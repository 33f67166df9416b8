"""Timing a run measures its parts and does not change it."""

import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from kdbench.benchmark import lightning_overhead as lightning
from kdbench.benchmark import scaling as scale
from kdbench.benchmark.interleave import WARM_UP, InterleavedTimer, Limit
from kdbench.benchmark.pairs import measure
from kdbench.benchmark.settings import SETTINGS, Setup, make_setup
from kdbench.benchmark.stopwatch import Stopwatch, Turn
from kdbench.config.build import build
from kdbench.runs.execute import run
from kdbench.runs.hydra_setup import register
from kdbench.teachers.cache.logits import CachedTeacher
from kdbench.teachers.live import LiveTeacher
from tests.helpers.composition import compose_checked

register()
FAKE = ["dataset=fake", "dataset.classes=10", "dataset.train=80", "schedule.batch_size=16"]
SHORT = ["schedule=quick", "schedule.epochs=2", "schedule.batch_size=16"]


def make(folder: Path, pair: str = "resnet20:resnet8", dataset: list[str] = FAKE) -> Setup:
    cfg = compose_checked("train", dataset)
    data = build(cfg.dataset, seed=0, batch_size=cfg.schedule.batch_size)
    return make_setup(pair, data, dataset, 1, folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (state,) = folder.glob("*/state.pt")
    return torch.load(state, weights_only=True)["model"]


def test_timed_run_has_the_weights_of_an_untimed_one(tmp_path):
    setup = make(tmp_path)
    timer = InterleavedTimer(Stopwatch(), Limit(rounds=3, seconds=0, steps=1))
    timer.run([setup.plan("loss=kd", "log_every=1", *SHORT)])
    (record,) = tmp_path.glob("*/record.json")
    assert '"interrupted"' in record.read_text()
    assert "train_batch" not in vars(setup.data), "the hooks are removed"
    run(setup.plan("loss=kd", "log_every=1", *SHORT, "overwrite=false", "resume=true"))
    timed = weights(tmp_path)
    run(setup.plan("loss=kd", *SHORT, f"output={tmp_path / 'alone'}"))
    alone = weights(tmp_path / "alone")
    assert all(torch.equal(value, alone[name]) for name, value in timed.items())


def test_every_part_of_a_step_is_timed_and_short_batches_are_left_out(tmp_path):
    setup = make(tmp_path, dataset=["dataset=fake", "dataset.train=40", "schedule.batch_size=16"])
    turns = []

    def reference(steps: int) -> Turn:
        turns.append(steps)
        return Turn(steps, {"rest": 1.0}, {"rest": 1.0})

    timer = InterleavedTimer(Stopwatch(), Limit(rounds=4, seconds=0, steps=1), reference)
    timer.run([setup.plan("loss=kd", "log_every=1")])
    assert len(timer.ours) == 4
    assert len(turns) == 7, "with the last batch of each epoch and the warm-up"
    assert len(timer.theirs) == len(turns) - WARM_UP
    for turn in timer.ours:
        assert all(
            turn.cpu[part] > 0 for part in ("data", "teacher", "student", "loss", "backward", "optimiser")
        )
        assert sum(turn.wall.values()) * 1e3 == pytest.approx(turn.wall_ms)
        assert turn.cpu["student"] + turn.cpu["backward"] > turn.cpu["rest"]


def test_warm_cache_replaces_the_teacher(tmp_path, monkeypatch):
    setup = make(tmp_path)
    asked = {"live": 0, "cache": 0}

    def counted(name, forward):
        def answer(self, batch, features=()):
            asked[name] += 1
            return forward(self, batch, features)

        return answer

    monkeypatch.setattr(LiveTeacher, "forward", counted("live", LiveTeacher.forward))
    monkeypatch.setattr(CachedTeacher, "__call__", counted("cache", CachedTeacher.__call__))
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    (row,) = measure(setup, {"warm-fp32": SETTINGS["warm-fp32"]}, Limit(rounds=2, seconds=0, steps=1))
    assert asked["cache"] == 2 + 2 + 1, "turns of two steps, of which five are in an epoch"
    assert asked["live"] == 1 + 4, "the probe, and what measures the cost of filling"
    assert row["fill"]["teacher"]["wall"] > row["ours"]["parts"]["wall"]["teacher"]
    assert row["fill"]["images"] == 80


def test_ctrl_c_ends_the_measurement(tmp_path):
    setup = make(tmp_path)

    class Impatient(Callback):
        def on_train_batch_end(self, *_):
            signal.raise_signal(signal.SIGINT)

    timer = InterleavedTimer(Stopwatch(), Limit(rounds=3, seconds=0, steps=1), prepare=lambda module: None)
    timer.on_train_batch_end = Impatient().on_train_batch_end
    with pytest.raises(KeyboardInterrupt):
        timer.run([setup.plan("loss=kd", "log_every=1")])


def test_run_that_ends_before_the_limit_is_an_error(tmp_path):
    setup = make(tmp_path)
    with pytest.raises(ValueError, match="ended before"):
        InterleavedTimer(Stopwatch(), Limit(rounds=99, seconds=0)).run(
            [setup.plan("loss=kd", *SHORT, "schedule.epochs=1")]
        )
    assert "train_batch" not in vars(setup.data), "the hooks are removed"


def test_lightning_costs_little_outside_the_step(tmp_path):
    setup = make(
        tmp_path, dataset=["dataset=fake", "dataset.train=220", "dataset.size=8", "schedule.batch_size=1"]
    )
    result = lightning.measure(setup, chunks=2)
    assert 0 < result["outside_us"] < result["step_us"]
    # generous, for busy machines; the target of 1 % is measured on a quiet one
    assert result["percent_of_40_ms"] < 5


def test_cost_of_a_cohort_is_predicted_by_its_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "COHORTS", (1, 3))
    one, three = scale.cohorts(make(tmp_path), Limit(rounds=2, seconds=0, steps=1))
    assert (one["students"], three["students"]) == (1, 3)
    assert one["predicted"] == pytest.approx(one["cost"])
    assert one["predicted"] < three["predicted"] < 3 * one["predicted"]
    assert three["cost"] == pytest.approx(three["predicted"], rel=0.5)


def test_memory_of_a_data_set_is_as_computed(tmp_path, monkeypatch):
    setup = make(tmp_path)
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    result = scale.data(setup, Limit(rounds=1, seconds=0, steps=1), caches=True)
    assert result["bytes"] == {"computed": 80 * 3 * 40 * 40, "measured": 80 * 3 * 40 * 40}
    assert result["cache_bytes"] == {"computed": 80 * 162 * 10 * 2, "measured": 80 * 162 * 10 * 2}
    assert scale.cache_bytes(50_000, 162, 100) == 1_620_000_000


@pytest.mark.slow
def test_memory_does_not_grow_over_a_run(tmp_path):
    """The allocator varies by tens of MiB; keeping a batch of every step would add 150 MiB."""
    setup = make(tmp_path, "resnet8:resnet8", dataset=["dataset=cifar100_mini"])
    result = scale.memory(setup, steps=400)
    assert result["steps"] >= 400
    assert result["growth_mib"] < 50


def test_time_between_two_turns_is_charged_to_none():
    watch = Stopwatch()
    turn = watch.stop(1)
    before = dict(turn.wall)
    watch.mark("teacher")
    assert turn.wall == before
