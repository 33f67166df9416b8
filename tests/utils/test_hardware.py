import os
import warnings
from pathlib import Path

import pytest
import torch

from kdbench.config.compose import compose_checked
from kdbench.runs import run as run_module
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from kdbench.runs.run import run
from kdbench.utils import hardware as machine
from kdbench.utils.hardware import emulates_bf16, free_cores, has_bf16_units, resident_mib

register()
TINY = ["dataset=fake", "teacher=none", "loss=ce", "student=resnet8", "schedule=quick", "schedule.epochs=1"]


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("flags : sse2 avx512f avx512_bf16 fma", True),
        ("flags : sse2 amx_bf16 amx_tile", True),
        ("Features : fp asimd bf16 i8mm", True),
        ("flags : sse2 avx512f avx512_vnni", False),
    ],
)
def test_bf16_units_are_what_the_kernel_lists(tmp_path, flags, has):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    assert has_bf16_units(tmp_path / "cpuinfo") is has


def test_a_system_that_does_not_say_has_them():
    assert has_bf16_units(Path("/nowhere"))


def test_only_a_cpu_emulates(monkeypatch):
    monkeypatch.setattr(machine, "has_bf16_units", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert emulates_bf16("cpu")
    assert not emulates_bf16("gpu")
    assert not emulates_bf16("auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert emulates_bf16("auto")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-teacher"])
def test_a_precision_that_costs_time_is_said(tmp_path, monkeypatch, precision):
    monkeypatch.setattr(run_module, "emulates_bf16", lambda accelerator: accelerator == "cpu")
    overrides = [*TINY, "trainer=cpu", "progress=false", f"output={tmp_path}", f"precision={precision}"]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run(make_plan(compose_checked("train", overrides), {}))
    found = [str(one.message) for one in said if "no bf16 units" in str(one.message)]
    assert len(found) == (precision != "fp32")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_container_has_the_cores_it_has_time_on(tmp_path, files, cores):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert free_cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))


def test_more_threads_than_cores_are_said(tmp_path):
    many = free_cores() + 1
    overrides = [*TINY, "trainer=cpu", "progress=false", f"output={tmp_path}", f"threads={many}"]
    with pytest.warns(UserWarning, match=f"threads={many}, and this process may use"):
        run(make_plan(compose_checked("train", overrides), {}))


def test_cores_and_memory_are_known():
    assert free_cores() >= 1
    assert resident_mib() > 10
