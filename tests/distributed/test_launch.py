"""Runs of two real processes: how they end when one of them is killed, stopped or raises."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdbench.cli.table import main as table_main
from kdbench.distributed.devices import check_sweep
from kdbench.runs.execute import run_cohort
from kdbench.runs.hydra_setup import register
from kdbench.runs.launchers import ProcessLauncher
from kdbench.runs.plan import make_plan
from tests.helpers.composition import compose_checked

register()

TINY = ["dataset=fake", "dataset.train=96", "schedule=quick", "schedule.batch_size=16", "student=resnet8"]
TINY += ["teacher=none", "threads=1", "progress=false", "log_every=2", "save_every=0"]
DDP = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
ALONE = [*TINY, "loss=ce"]

SLOW = """
import time
from kdbench.core import Objective, Paper
from kdbench.distributed.collectives import rank

class Slow(Objective):
    paper = Paper("Slow", 2026)
    needs_teacher = False

    def __init__(self, seconds: float = 0.2, breaks_at: int | None = None) -> None:
        super().__init__()
        self.seconds, self.breaks_at = seconds, breaks_at

    def forward(self, student, teacher, batch):
        time.sleep(self.seconds)
        if rank() == 1 and batch.step == self.breaks_at:
            raise ZeroDivisionError("raised by the test")
        return student.logits.square().mean()
"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory) -> list[str]:
    """A run of 60 steps that are slow enough for a signal to arrive during one."""
    folder = tmp_path_factory.mktemp("packages")
    package, metadata = folder / "outsider", folder / "outsider-1.dist-info"
    for path in (package, metadata):
        path.mkdir()
    (package / "__init__.py").touch()
    (package / "slow.py").write_text(SLOW)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[kdbench.objectives]\nslow = outsider.slow:Slow\n")
    os.environ["PYTHONPATH"] = f"{folder}:{os.environ.get('PYTHONPATH', '')}"
    return [
        *TINY,
        "loss=sum",
        "+objective@loss.objectives.slow=slow",
        "loss.weights.ce=1",
        "+loss.weights.slow=0.1",
    ]


def start(*overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "kdbench.cli.train", *overrides, *DDP]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def child_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (ranks,) = [
        child for child in children if b"kdbench.cli.train" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return int(ranks)


def has_child(pid: int) -> bool:
    with suppress(ValueError, OSError):
        return bool(child_of(pid))
    return False


def until(there: Callable[[], bool], seconds: float = 300) -> None:
    limit = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < limit
        time.sleep(0.1)


def strike(process: subprocess.Popen, output: Path, blow: Callable[[int, int], None]) -> tuple[float, str]:
    """Wait for the first checkpoint, apply `blow` to the pids of ranks 0 and 1, and wait for both to end.

    Returns the seconds until then, and stderr.
    """
    until(lambda: any(output.glob("*/state.pt")) or process.poll() is not None)
    assert process.poll() is None, process.stderr.read()
    other = child_of(process.pid)
    began = time.monotonic()
    blow(process.pid, other)
    _, said = process.communicate(timeout=120)
    until(lambda: not is_alive(other))
    return time.monotonic() - began, said


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def record_in(output: Path) -> dict:
    (file,) = output.glob("*/record.json")
    return json.loads(file.read_text())


def weights_in(output: Path) -> dict[str, torch.Tensor]:
    (file,) = output.glob("*/student.safetensors")
    return load_file(file)


def kill_both(first: int, second: int) -> None:
    os.kill(first, signal.SIGKILL)
    os.kill(second, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blow", "code", "state", "reason"),
    [
        (lambda _, other: os.kill(other, signal.SIGKILL), 1, "failed", "rank 1 was killed by signal 9"),
        (lambda first, _: os.kill(first, signal.SIGKILL), -9, "running", None),
        (kill_both, -9, "running", None),
        (lambda first, _: os.kill(first, signal.SIGTERM), 143, "interrupted", "stopped at epoch"),
        (lambda _, other: os.kill(other, signal.SIGINT), 130, "interrupted", "stopped at epoch"),
    ],
    ids=["rank 1 killed", "rank 0 killed", "both killed", "rank 0 asked to stop", "rank 1 asked to stop"],
)
def test_run_ends_with_a_lost_rank_and_resumes_to_the_bit(tmp_path, undisturbed, blow, code, state, reason):
    slow, weights = undisturbed
    process = start(*slow, "schedule.epochs=10", f"output={tmp_path}")
    seconds, said = strike(process, tmp_path, blow)
    assert (process.returncode, seconds < 60) == (code, True), said
    assert record_in(tmp_path)["state"] == state
    if reason:
        assert reason in record_in(tmp_path)["reason"]
        assert reason in said
    resumed = start(*slow, "schedule.epochs=10", f"output={tmp_path}", "resume=true")
    out, said = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, said
    assert out.count("resuming") == 1
    resumed_weights = weights_in(tmp_path)
    assert all(torch.equal(resumed_weights[key], weights[key]) for key in weights)


@pytest.fixture(scope="module")
def undisturbed(slow, tmp_path_factory) -> tuple[list[str], dict[str, torch.Tensor]]:
    output = tmp_path_factory.mktemp("undisturbed")
    process = start(*slow, "schedule.epochs=10", f"output={output}")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return slow, weights_in(output)


@pytest.mark.slow
def test_rank_that_raises_ends_all_ranks_and_prints_its_traceback(tmp_path, slow):
    began = time.monotonic()
    process = start(*slow, "loss.objectives.slow.breaks_at=3", f"output={tmp_path}")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1, said
    assert "Traceback" in said
    assert said.count("ZeroDivisionError: raised by the test") == 2  # the traceback, and rank 0's last line
    assert "kdbench: rank 1 failed: ZeroDivisionError: raised by the test" in said
    record = record_in(tmp_path)
    assert (record["state"], record["reason"]) == ("failed", said.splitlines()[-1].removeprefix("kdbench: "))
    assert time.monotonic() - began < 150  # most of it for the imports


@pytest.mark.slow
def test_run_ends_when_a_rank_dies_before_the_process_group_exists(tmp_path):
    process = start(*ALONE, f"output={tmp_path}")
    until(lambda: has_child(process.pid) or process.poll() is not None)
    os.kill(child_of(process.pid), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.splitlines()[-1] == "kdbench: rank 1 was killed by signal 9 before all ranks had started"


@pytest.mark.slow
def test_each_job_of_a_sweep_has_two_ranks(tmp_path):
    words = [*ALONE, *DDP, "schedule.epochs=1", "hydra.launcher.jobs=2", f"output={tmp_path}"]
    command = [sys.executable, "-m", "kdbench.cli.train", "-m", *words, "seed=0,1,2,3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(file.read_text()) for file in tmp_path.glob("*/record.json")]
    assert sorted(record["seed"] for record in records) == [0, 1, 2, 3]
    assert {(record["state"], record["config"]["trainer"]["devices"]) for record in records} == {("done", 2)}
    assert done.stdout.count("done in") == 4
    assert len(list(tmp_path.iterdir())) == 5  # the runs, and the sweep's own logs


def test_sweep_in_one_process_is_refused_and_the_message_has_a_working_command():
    trainers = [compose_checked("train", [*ALONE, *DDP]).trainer]
    words = ["-m", "seed=0,1", *DDP]
    for launcher in ("basic", "cohort"):
        with pytest.raises(ValueError, match=r"the default: kdbench train -m seed=0,1 trainer=ddp"):
            check_sweep([*words, f"hydra/launcher={launcher}"], trainers)
    check_sweep([*words, "hydra/launcher=process"], trainers)
    check_sweep(words, trainers)
    check_sweep(words[1:], trainers)
    check_sweep(["-m"], [compose_checked("train", ALONE).trainer])


@pytest.mark.parametrize(
    ("environment", "starter"),
    [
        ({"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2"}, "torchrun"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "srun"),
    ],
)
def test_sweep_or_table_under_torchrun_or_srun_is_refused(environment, starter, monkeypatch, capsys):
    trainers = [compose_checked("train", ALONE).trainer]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"without {starter} .*kdbench train -m seed=0,1"):
        check_sweep(["-m", "seed=0,1"], trainers)
    check_sweep(["seed=0"], trainers)
    assert table_main(["demo"]) == 2
    assert f"without {starter}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "gpus"),
    [
        ([], 1),
        (["trainer=cpu"], 1),
        (["trainer=ddp"], 4),
        (["trainer=ddp", "trainer.devices=2"], 2),
        (["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"], 1),
    ],
)
def test_job_gets_the_devices_that_its_run_needs(words, gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    launcher = ProcessLauncher()
    jobs = [["loss=kd", *words], ["loss=ce", *words]]
    limits = launcher._limits(jobs)
    assert (limits.devices, limits.at_once) == (gpus, min(2, 4 // gpus))
    assert ProcessLauncher(devices=1)._limits(jobs).devices == 1


def test_cohort_of_several_students_is_refused():
    plans = [
        make_plan(compose_checked("train", [*ALONE, *DDP, f"schedule.lr={lr}"]), {}) for lr in (0.1, 0.2)
    ]
    with pytest.raises(ValueError, match=r"2 students side by side on 2 devices: .* hydra/launcher=process"):
        run_cohort(plans)
