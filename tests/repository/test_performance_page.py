"""docs/performance.md is made from the results of the benchmarks."""

from pathlib import Path

from kdbench.benchmark.stopwatch import PARTS
from kdbench.benchmark.summary import EXPECTED, judge
from tools.docs.objectives import load_measured
from tools.docs.performance import page

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date():
    """`make docs` writes it."""
    measured = (load_measured(ROOT / "benchmarks" / f"{name}.json") for name in ("bench", "accuracy", "gpu"))
    assert (ROOT / "docs" / "performance.md").read_text() == page(*measured)


def side(ms: float) -> dict:
    parts = dict.fromkeys(PARTS, ms / len(PARTS))
    return {"cpu_ms": [ms], "wall_ms": [ms], "parts": {"cpu": parts, "wall": parts}}


def results(**changes) -> dict:
    """Return results as `kdbench bench --json` writes them, of one pair in one setting."""
    row = {
        "setting": "live-fp32",
        "about": "live teacher, fp32",
        "precision": "fp32",
        "emulated": False,
        "students": 1,
        "cached": False,
        "ours": side(70.0),
        "reference": side(140.0),
        "peak": {"cpu": 100.0, "wall": 100.0},
    }
    work = {"teacher_gflop": 1.0, "student_gflop": 1.0}
    return {
        "command": "kdbench bench pairs=...",
        "provenance": {
            "machine": {"processor": "A processor", "cpus": 2},
            "threads": 2,
            "versions": {"torch": "2.15"},
            "commit": "abc",
        },
        "bf16_units": True,
        "load": 0.1,
        "dataset": "cifar100",
        "pairs": [judge("resnet20:resnet8", [row], work, 64)],
        **changes,
    }


def test_measurements_are_on_the_page():
    lightning = {"outside_us": 5.0, "manual_backward_us": 7.0, "optimizers_us": 1.0, "step_us": 13.0}
    scale = {
        "cohorts": [{"students": 2, "cost": 1.1, "predicted": 1.0}],
        "batches": [{"batch": 16, "cost": 0.9, "predicted": 1.0}],
        "data": [
            {
                "dataset": "cifar100_mini",
                "images": 2000,
                "batch_ms": 0.5,
                "bytes": {"computed": 9_600_000, "measured": 9_600_000},
                "cache_bytes": {"computed": 64_800_000, "measured": None},
            }
        ],
    }
    memory = {"steps": 400, "early_mib": 900.0, "late_mib": 901.0, "growth_mib": 1.0}
    text = page(results(lightning={**lightning, "percent_of_40_ms": 0.03}, memory=memory, scale=scale))
    assert "on A processor, 2 CPUs, 2 thread(s)" in text
    assert "| live teacher, fp32 | 2.00 / 2.00 | 914 | 70 | 70 | 29 | 14 |" in text
    assert "| total | 13.0 |" in text
    assert "(target: under 1 %): 0.03 %." in text
    assert "900 MiB in the second quarter" in text
    assert "| 2 | 1.10 | 1.00 | 1.10 |" in text
    assert "| cifar100_mini | 2,000 | 0.50 | 9.6 | 9.6 | 65 |  |" in text
    assert "emulates" not in text


def test_missing_measurements_are_empty_and_emulation_is_explained():
    text = page(results(bf16_units=False))
    assert "This CPU has no bf16 units" in text
    assert "| live teacher, fp32 | (target 1.25) | (target 1.3) | (target 1.25) |" in text
    assert "| 4 |  |  |  |" in text
    assert page(None).count("not measured yet") + page(None).count("Not measured yet") == 6


def test_gpu_and_paired_runs_have_sections():
    speed = {"images_per_second": 1000.0, "minutes_a_row": 200.0}
    graph = {"images_per_second": 80_000.0, "minutes_a_row": 2.5}
    gpu = {
        "device": "A card",
        "parts": {"reference": {**speed, "commit": "abc"}, "graph": {**graph, "commit": None}},
    }
    paired = {
        "seeds": [0, 1],
        "live": [50.0, 52.0],
        "stored": [50.5, 52.5],
        "difference": 0.5,
        "interval95": 0.1,
    }
    about = {"pair": "resnet20:resnet8", "epochs": 2, "command": "python ...", "commit": "abc"}
    about["machine"] = {"processor": "A processor"}
    text = page(None, {"stored": {**about, "losses": {"kd": paired}}}, gpu)
    assert "| stored | resnet20 -> resnet8 | 2 | kd | 2 | 51.00 | 51.50 | +0.50 +- 0.10 |" in text
    assert "* stored: `python ...` on A processor, commit abc" in text
    assert "On A card, commit abc, unknown." in text
    assert "| live teacher, bf16, recorded | 2.5 | 2.50 | 80,000 | 80.0 |" in text
    assert "| a whole run, bf16, recorded, without evaluations | 2.5 |  |  |  |" in text
    assert "has not been run on CUDA yet" in page(None)
    assert "has not been run on CUDA yet" in page(None, None, {**gpu, "parts": {"reference": speed}})
    assert "has not been run on CUDA yet" not in text


def test_a_reference_with_unexpected_shares_gives_no_ratio(monkeypatch):
    monkeypatch.setitem(EXPECTED, "resnet20:resnet8", {"teacher": 99})
    text = page(results())
    assert "| live teacher, fp32 | no ratio |" in text
    assert "off in teacher, so no ratio is given" in text


def test_missed_targets_are_listed():
    slow = results()
    slow["pairs"][0] |= {"pair": "resnet56:resnet20"}
    (row,) = slow["pairs"][0]["rows"]
    row["ratio"] = {"cpu": 1.2, "wall": 1.25}
    assert "* resnet56 -> resnet20, live teacher, fp32: 1.20 / 1.25 instead of 1.3" in page(slow)
    row["ratio"] = {"cpu": 1.2, "wall": 1.31}
    assert "Missed targets" not in page(slow)
