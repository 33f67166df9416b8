import os
import warnings
from pathlib import Path

import pytest
import torch

from kdbench.runs import prepare
from kdbench.runs.execute import run
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import make_plan
from kdbench.utils import hardware
from kdbench.utils.hardware import emulates_bf16, free_cores, has_bf16_units, resident_mib
from tests.helpers.composition import compose_checked

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
def test_bf16_units_are_read_from_cpuinfo(tmp_path, flags, has):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    assert has_bf16_units(tmp_path / "cpuinfo") is has


def test_bf16_units_are_assumed_without_cpuinfo():
    assert has_bf16_units(Path("/nowhere"))


def test_only_cpus_emulate_bf16(monkeypatch):
    monkeypatch.setattr(hardware, "has_bf16_units", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert emulates_bf16("cpu")
    assert not emulates_bf16("gpu")
    assert not emulates_bf16("auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert emulates_bf16("auto")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-teacher"])
def test_emulated_bf16_warns_once(tmp_path, monkeypatch, precision):
    monkeypatch.setattr(prepare, "emulates_bf16", lambda accelerator: accelerator == "cpu")
    overrides = [*TINY, "trainer=cpu", "progress=false", f"output={tmp_path}", f"precision={precision}"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(make_plan(compose_checked("train", overrides), {}))
    messages = [str(one.message) for one in caught if "no bf16 units" in str(one.message)]
    assert len(messages) == (precision != "fp32")


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
def test_free_cores_respect_the_quota_of_a_container(tmp_path, files, cores):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert free_cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))


def test_more_threads_than_cores_warn(tmp_path):
    many = free_cores() + 1
    overrides = [*TINY, "trainer=cpu", "progress=false", f"output={tmp_path}", f"threads={many}"]
    with pytest.warns(UserWarning, match=f"threads={many}, and this process may use"):
        run(make_plan(compose_checked("train", overrides), {}))


def test_this_machine_has_cores_and_memory():
    assert free_cores() >= 1
    assert resident_mib() > 10
