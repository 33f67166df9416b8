"""Estimates of time and room: from records of this machine, else from the figures of kdbench bench."""

import json

import pytest

from kdbench.runs.hydra_setup import register
from kdbench.tables import estimate as forecast
from kdbench.tables.definition import load_table
from kdbench.tables.estimate import Estimate, model_cost
from kdbench.tables.grid import cells
from kdbench.tables.processes import make_batches
from kdbench.utils.provenance import machine

register()


def demo(tmp_path, *more: str):
    words = ["losses=kd", "seeds=0,1", "jobs=1", "cohort=1", "schedule.epochs=5", f"output={tmp_path / 't'}"]
    table = load_table("demo", [*words, *more])
    return table, make_batches(table, cells(table))


def test_from_bench_it_grows_with_images_and_network_and_falls_with_jobs(tmp_path, monkeypatch):
    """Two runs of 5 epochs of 2,000 images; a machine that takes 1 ms per GFLOP on both sides."""
    pair = {"teacher_gflop": 640.0, "student_gflop": 640.0, "batch": 64}
    pair["rows"] = [
        {"setting": "live-fp32", "ms": {"cpu": 1280.0}},
        {"setting": "warm-fp32", "ms": {"cpu": 640.0}},
    ]
    bench = tmp_path / "bench.json"
    bench.write_text(
        json.dumps({"pairs": [pair], "provenance": {"machine": {**machine(), "processor": "P"}}})
    )
    monkeypatch.setattr(forecast, "BENCH", bench)
    table, todo = demo(tmp_path)
    said = Estimate(table).of_runs(todo)
    images = 2 * 5 * 2000
    seconds = images * (model_cost("resnet20").forward_gflops + model_cost("resnet8").training_gflops) * 1e-3
    assert said.startswith(f"an estimate: {seconds:.1f} s, ")
    assert f"{2 * 12 * model_cost('resnet8').parameters / 1e6:.1f} MB on the disk" in said
    assert "another machine, P" in said
    both, todo = demo(tmp_path, "jobs=2")
    assert Estimate(both).of_runs(todo).startswith(f"an estimate: {seconds / 2:.1f} s, ")


def test_model_cost_of_resnet20():
    """resnet20: 41 million multiply-adds; its training step about three times its answer."""
    known = model_cost("resnet20")
    assert known.forward_gflops == pytest.approx(2 * 0.041, rel=0.02)
    assert 2.8 * known.forward_gflops < known.training_gflops < 3.0 * known.forward_gflops
    assert known.parameters == 278_324


def test_records_of_this_machine_come_first(tmp_path):
    folder = tmp_path / "other" / "runs" / "one"
    folder.mkdir(parents=True)
    names = {"teacher": "resnet20", "student": "resnet8", "loss": "ttm"}
    record = {"schema": 1, "state": "done", "names": names, "machine": machine(), "threads": 1}
    (folder / "record.json").write_text(json.dumps({**record, "images_per_second": 100.0}))
    table, todo = demo(tmp_path)
    said = Estimate(table).of_runs(todo)
    assert said.startswith("an estimate: 3.3 min, ")  # 20,000 images
    assert "from records of this machine" in said
    (folder / "record.json").write_text(json.dumps({**record, "images_per_second": 100.0, "machine": {}}))
    assert "kdbench bench" in Estimate(table).of_runs(todo)


def test_nothing_is_foretold_of_data_whose_size_nobody_knows_yet(tmp_path):
    table, todo = demo(tmp_path, "dataset.subset.fraction=0.5")
    todo[0][0].plan.data.name = "mine"
    assert Estimate(table).of_runs(todo).startswith("no estimate: the size of mine is known only once")
