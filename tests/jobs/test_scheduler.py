"""Jobs as processes: assignment, retries, claims, timeouts and stopping, with real kills of small commands."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdbench.jobs.job import Job, JobResult, Limits, reason_in
from kdbench.jobs.scheduler import JOURNAL, JobScheduler


def job(folder: Path, name: str, code: str, **about) -> Job:
    return Job(name, ("-c", code), folder / "logs" / f"{name}.txt", **about)


def run(jobs: list[Job], **limits) -> dict[str, JobResult]:
    results: list[JobResult] = []
    scheduler = JobScheduler(Limits(**{"retries": 0, **limits}), results.append, lambda line: None)
    assert scheduler.run(jobs) == results
    return {ended.job.title: ended for ended in results}


def test_killing_one_job_leaves_the_others_alone_and_records_the_reason(tmp_path):
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    crash = "print('begun'); raise ValueError('a reason of two words')"
    jobs = [job(tmp_path, name, code) for name, code in (("kill", kill), ("crash", crash), ("good", ""))]
    ended = run(jobs, at_once=2)
    assert {name: (one.state, one.reason) for name, one in ended.items()} == {
        "kill": ("failed", "killed by SIGKILL"),
        "crash": ("failed", "ValueError: a reason of two words"),
        "good": ("done", None),
    }
    assert "Traceback" in (tmp_path / "logs" / "crash.txt").read_text()
    journal = [json.loads(line) for line in (tmp_path / "logs" / JOURNAL).read_text().splitlines()]
    assert {line["title"]: line["reason"] for line in journal} == {n: one.reason for n, one in ended.items()}


def test_failed_job_is_retried_with_its_extra_arguments(tmp_path):
    code = f"import sys, pathlib; sys.argv[1:] or sys.exit('no'); pathlib.Path(r'{tmp_path}/w').write_text(sys.argv[1])"
    (ended,) = run([job(tmp_path, "one", code, again=("resume",))], retries=1).values()
    assert (ended.state, ended.attempts) == ("done", 2)
    assert (tmp_path / "w").read_text() == "resume"
    (ended,) = run([job(tmp_path, "two", "import sys; sys.exit('no')")], retries=2).values()
    assert (ended.state, ended.attempts, ended.reason) == ("failed", 3, "no")
    (ended,) = run([job(tmp_path, "usage", "import sys; sys.exit(2)")], retries=2).values()
    assert ended.attempts == 1, "a usage error is not retried"


def test_job_stops_at_its_timeout(tmp_path):
    (ended,) = run([job(tmp_path, "long", "import time; time.sleep(60)")], timeout=0.3).values()
    assert (ended.state, ended.reason) == ("failed", "timeout: not finished after 0.3 s")
    assert ended.seconds < 30


def test_each_job_gets_its_own_threads_and_devices(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    say = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS']); time.sleep(0.5)"
    run([job(tmp_path, str(number), say) for number in range(3)], at_once=3, threads=2)
    seen = [(tmp_path / "logs" / f"{number}.txt").read_text().split("\n")[1] for number in range(3)]
    assert sorted(seen) == ["4 2", "5 2", "7 2"]
    run([job(tmp_path, "two", say)], devices=2)
    assert (tmp_path / "logs" / "two.txt").read_text().split("\n")[1] == "4,5 1"


def test_pinned_jobs_run_on_separate_cores(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    say = "import os, time; time.sleep(0.3); print(sorted(os.sched_getaffinity(0)))"
    run([job(tmp_path, str(number), say) for number in range(2)], at_once=2, pin=True)
    seen = [(tmp_path / "logs" / f"{number}.txt").read_text().split("\n")[1] for number in range(2)]
    assert sorted(seen) == [f"[{cores[0]}]", f"[{cores[1]}]"]


LAUNCHER = """
import sys
from pathlib import Path
from kdbench.jobs.job import Job, Limits
from kdbench.jobs.scheduler import JobScheduler
folder, code = Path(sys.argv[1]), sys.argv[2]
names = sys.argv[3:]
jobs = [Job(n, ("-c", code, n), folder / "logs" / f"{n}.txt", claims=(folder / f"{n}.lock",),
            needed=lambda n=n: not (folder / f"{n}.done").exists()) for n in names]
scheduler = JobScheduler(Limits(retries=0), lambda ended: print(ended.job.title, ended.state, flush=True))
scheduler.run(jobs)
print("left", len(jobs) - len(scheduler._results), flush=True)
sys.exit(128 + scheduler.stopped_by if scheduler.stopped_by else 0)
"""

WORK = """
import os, sys, time, signal
from pathlib import Path
from kdbench.jobs.worker import follow_launcher
follow_launcher()
folder, name = Path({folder!r}), sys.argv[1]
def checkpoint(*_):
    (folder / f"{{name}}.checkpoint").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, checkpoint)
with open(folder / "began", "a") as file:
    file.write(name + "\\n")
time.sleep({seconds})
(folder / f"{{name}}.done").touch()
"""


def launch(folder: Path, seconds: float, *names: str) -> subprocess.Popen:
    code = WORK.format(folder=str(folder), seconds=seconds)
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(folder), code, *names], stdout=subprocess.PIPE, text=True
    )


def wait_for(path: Path, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


def test_two_launchers_share_the_jobs_and_run_none_twice(tmp_path):
    names = [f"j{number}" for number in range(6)]
    both = [launch(tmp_path, 0.3, *names) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted((tmp_path / "began").read_text().split()) == names
    states = [
        dict(line.split() for line in lines if "left" not in line and len(line.split()) == 2)
        for lines in said
    ]
    assert all(sorted(one) == names for one in states)
    assert all({one[name] for one in states} == {"done", "elsewhere"} for name in names)
    assert all("done" in one.values() for one in states), "each launcher ran some"


def test_jobs_of_a_killed_launcher_stop_with_a_checkpoint(tmp_path):
    process = launch(tmp_path, 60, "a")
    wait_for(tmp_path / "began")
    process.kill()
    process.communicate()
    wait_for(tmp_path / "a.checkpoint")
    again = launch(tmp_path, 0.1, "a")
    said, _ = again.communicate(timeout=60)
    assert "a done" in said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_all_jobs_with_checkpoints_and_starts_no_more(tmp_path, number, code):
    process = launch(tmp_path, 60, "a", "b")
    wait_for(tmp_path / "began")
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert (tmp_path / "a.checkpoint").exists()
    assert f"{signal.Signals(number).name}: 1 jobs stop" in said
    assert "a stopped" in said
    assert "left 1" in said
    assert (tmp_path / "began").read_text().split() == ["a"]


def test_job_result_has_the_value_that_the_task_returned(tmp_path):
    code = "from kdbench.jobs.worker import write_result; write_result({})"
    ended = run([job(tmp_path, "value", code.format("41.5")), job(tmp_path, "none", code.format("None"))])
    assert (ended["value"].value, ended["none"].value) == (41.5, None)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("kdbench: no such thing\n", "no such thing"),
        (
            "a\nTraceback (most recent call last):\n  File x\nE: first\n\nDuring:\nTraceback (most recent call last):\n"
            "  File y\nE: second\n",
            "E: first",
        ),
        ("epoch 1\nepoch 2\n\n", "epoch 2"),
        ("", ""),
    ],
)
def test_reason_is_read_from_the_log(log, reason):
    assert reason_in(log) == reason
