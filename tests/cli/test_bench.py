"""`kdbench bench` from end to end, with as few steps as there can be."""

import json
import subprocess
import sys

import pytest

from kdbench.benchmark import session
from kdbench.benchmark.session import load_options
from kdbench.benchmark.stopwatch import PARTS
from kdbench.benchmark.summary import EXPECTED
from kdbench.cli.bench import main
from tools.docs.performance import page

TINY = ["pairs=resnet20:resnet8", "parts=pairs", "rounds=1", "seconds=0", "steps=1", "threads=1"]
TINY += ["dataset=fake", "dataset.classes=10"]


def test_the_bench_from_end_to_end(tmp_path, capsys):
    file = tmp_path / "bench.json"
    words = [*TINY, "settings=live-fp32,warm-cohort-fp32", "parts=pairs,bare"]
    assert main([*words, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "resnet20 -> resnet8" in printed
    assert printed.count(" x by CPU time") == 2
    assert "filling the cache: 10,368 views" in printed
    found = json.loads(file.read_text())
    assert found["schema"] == 1
    assert found["provenance"]["threads"] == 1
    (pair,) = found["pairs"]
    assert pair["check"]["passed"] is None
    assert [row["setting"] for row in pair["rows"]] == ["live-fp32", "warm-cohort-fp32"]
    for row in pair["rows"]:
        for side in (row["ours"], row["reference"]):
            assert len(side["cpu_ms"]) == len(side["wall_ms"]) == 1
            assert set(side["parts"]["cpu"]) == set(side["parts"]["wall"]) == set(PARTS)
        assert row["ratio"]["cpu"] > 0
        assert row["peak_percent"] > 0
    live, warm = pair["rows"]
    assert (live["students"], warm["students"]) == (1, 4)
    assert live["ours"]["parts"]["cpu"]["teacher"] > warm["ours"]["parts"]["cpu"]["teacher"]
    assert "| warm cache, cohort of 4, fp32 | " in page(found)
    (rows,) = found["bare"].values()
    assert [row["setting"].split(",")[0] for row in rows] == ["live teacher", "warm cache"]
    assert all(0.3 < row["over"]["cpu"] < 3 for row in rows)
    assert page(found).count(" / ".join(f"{rows[0]['over'][clock]:.3f}" for clock in ("cpu", "wall"))) == 1
    assert pair["teacher_gflop"] == pytest.approx(2 * 64 * 40.6e6 / 1e9, rel=0.02), (
        "40.6 million multiply-adds"
    )


def test_no_ratio_is_printed_where_the_reference_is_off(capsys, monkeypatch):
    monkeypatch.setitem(EXPECTED, "resnet20:resnet8", {"teacher": 99})
    assert main([*TINY, "settings=live-fp32", "--json", "-"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)["pairs"][0]
    assert "the reference differs by more than 8 points in teacher: no ratio" in printed.err
    assert found["rows"][0]["ratio"] is None
    assert found["rows"][0]["ours"]["cpu_ms"]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("pairs=resnet56", "a pair is TEACHER:STUDENT of resnet8, "),
        ("pairs=resnet56:vgg8", "a pair is TEACHER:STUDENT of resnet8, "),
        ("settings=live", "possible: live-fp32, live-bf16, "),
        ("parts=all", "possible: pairs, bare, lightning, memory, scale"),
        ("threads=0", "threads must be at least 1"),
        ("rounds=many", "rounds=many: "),
        ("thread=1", "did you mean 'threads'"),
        ("quick", "is not KEY=VALUE"),
        ("dataset.nmae=x", "unknown key 'dataset.nmae'"),
    ],
)
def test_mistakes_are_said(argument, words, capsys):
    assert main([argument]) == 2
    assert words in capsys.readouterr().err


def test_quick_is_one_pair_and_says_what_it_leaves_out(monkeypatch):
    monkeypatch.setattr(session, "has_bf16_units", lambda: False)
    without = load_options([], quick=True)
    assert without.pairs == ["resnet56:resnet20"]
    assert without.parts == ["pairs"]
    assert (without.settings, without.skipped) == (["live-fp32", "cohort-fp32", "warm-fp32"], ["live-bf16"])
    monkeypatch.setattr(session, "has_bf16_units", lambda: True)
    units = load_options([], quick=True)
    assert (units.settings, units.skipped) == (["live-fp32", "live-bf16", "cohort-bf16", "warm-bf16"], [])


def test_waiting_threads_sleep_where_torch_is_not_loaded_yet():
    """OpenMP reads that when torch is loaded, so the command must not load it before."""
    code = "import sys; import kdbench.cli.bench; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"
