"""Stored answers: what they are, whom they serve, and that nothing half-made or foreign is ever used."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kdbench.cli.cache import main
from kdbench.core.errors import Interrupted, RunError
from kdbench.models.checkpoints import save_weights
from kdbench.models.registry import create_model
from kdbench.runs.execute import run, run_cohort
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import Plan, make_plan
from kdbench.runs.weights import load_teacher, teacher_files
from kdbench.teachers.cache import writer as filling_module
from kdbench.teachers.cache.logits import CachedTeacher, LogitsCache, caches_folder, find
from kdbench.teachers.cache.logits_writer import LogitsCacheWriter
from kdbench.teachers.live import LiveTeacher
from kdbench.training.module import StudentModule
from kdbench.training.run_folder import RunFolder
from tests.helpers.composition import compose_checked

register()

TINY = [
    "dataset=fake",
    "dataset.train=48",
    "dataset.padding=1",
    "schedule=quick",
    "schedule.batch_size=8",
    "schedule.epochs=2",
]
TINY += ["teacher=resnet20", "student=resnet8", "trainer=cpu", "threads=1", "progress=false", "log_every=3"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "resnet20.safetensors"
    torch.manual_seed(0)
    save_weights(create_model("resnet20", 4), path, {"model": "resnet20", "num_classes": 4})
    return path


@pytest.fixture
def common(weights, tmp_path, monkeypatch) -> list[str]:
    """What all runs here have on their command line, and a cache folder of the test's own."""
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    return [*TINY, f"teacher.checkpoint={weights}", f"output={tmp_path / 'runs'}"]


def plan(*overrides: str) -> Plan:
    choices = dict(item.split("=", 1) for item in overrides)
    return make_plan(compose_checked("train", list(overrides)), choices)


def sides(common: list[str], *more: str):
    """The live teacher and the data of a run."""
    one = plan(*common, "loss=kd", *more)
    one.data.setup("fit")
    return load_teacher(one, teacher_files(one)), one.data


def filled(common: list[str], *words: str) -> LogitsCache:
    assert main(["fill", *common, "loss=kd", *words]) == 0
    (card,) = Path(os.environ["KDBENCH_HOME"]).glob("cache/*/*/cache.json")
    return LogitsCache(card.parent)


def weights_of(record: dict, common: list[str]) -> dict:
    (folder,) = [
        path.parent
        for path in Path(common[-1].removeprefix("output=")).glob("*/record.json")
        if json.loads(path.read_text())["hashes"] == record["hashes"]
    ]
    return RunFolder(folder).load_state()["model"]


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


# ---- what is stored


@pytest.mark.parametrize("precision", ["fp32", "bf16-teacher"])
@pytest.mark.parametrize(("storage", "error"), [("float16", 2**-11), ("float32", 0.0)])
def test_every_answer_of_a_run_is_the_live_teachers_up_to_the_rounding_of_the_storage(
    common, storage, error, precision
):
    common = [*common, f"precision={precision}"]
    cache = filled(common, f"--storage={storage}")
    teacher, data = sides(common)
    stored = CachedTeacher(teacher, cache, data)
    for epoch in (1, 2):
        for step in range(data.steps_per_epoch):
            batch = data.train_batch(epoch, step)
            live, read = teacher(batch), stored(batch)
            # the network itself answers a batch of another size a little differently: 1e-5
            torch.testing.assert_close(read.logits, live.logits.float(), rtol=error, atol=1e-5)
            assert torch.equal(read.classifier[0], live.classifier[0])


def test_exactly_the_views_of_the_planned_runs_are_stored(common):
    cache = filled(common, "seed=0,1")
    drawn = set()
    for seed in (0, 1):
        _, data = sides(common, f"seed={seed}")
        for epoch in (1, 2):
            for step in range(data.steps_per_epoch):
                batch = data.train_batch(epoch, step)
                drawn |= set(data.view_keys(batch.index, batch.view).tolist())
    assert cache.rows == len(drawn)
    assert cache.covers(torch.tensor(sorted(drawn)))
    absent = next(key for key in range(data.num_views) if key not in drawn)
    assert not cache.covers(torch.tensor([absent]))


def test_all_views_serve_every_seed(common):
    cache = filled(common, "--all")
    teacher, data = sides(common, "seed=12345")
    assert cache.rows == data.num_views == 48 * 18
    assert find(teacher, data, seed=12345, epochs=2).name == cache.name


def test_a_filling_that_was_killed_goes_on_and_ends_in_the_same_bytes(common, tmp_path, monkeypatch):
    whole = filled(common, "--all")
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "killed"))
    words = ["fill", *common, "loss=kd", "--all"]
    program = (
        "import sys, kdbench.teachers.cache.writer as fill, kdbench.teachers.cache.logits_writer as views\n"
    )
    program += "fill._CALLS = 2; views.LogitsCacheWriter.batch_units = 50\n"
    program += "from kdbench.cli.cache import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.DEVNULL)
    while not (notes := list((tmp_path / "killed").glob("cache/*/*/filling.json"))):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = json.loads(notes[0].read_text())["rows"]
    assert 0 < done < whole.rows
    with open(notes[0].with_name("logits.bin"), "ab") as file:
        file.write(b"half a block")
    with pytest.raises(ValueError, match="no sealed cache"):
        LogitsCache(notes[0].parent)
    again = filled(common, "--all")
    assert again.card["sha256"] == whole.card["sha256"]
    assert not notes[0].is_file()


def test_a_full_disk_is_said_before_anything_is_written(common, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    assert main(["fill", *common, "loss=kd"]) == 1
    said = capsys.readouterr()
    assert "GB more" in said.err
    assert not list(Path(os.environ["KDBENCH_HOME"]).glob("cache/*/*/logits.bin"))


def test_a_dry_run_says_size_and_time_and_writes_nothing(common, capsys):
    assert main(["fill", *common, "loss=kd", "--dry-run"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "of 864 views" in said
    assert "GB in" in said
    assert not (Path(os.environ["KDBENCH_HOME"]) / "cache").exists()


def test_logits_that_float16_cannot_hold_are_refused(common):
    teacher, data = sides(common)
    teacher.model.fc.bias.data += 1e5
    with pytest.raises(RunError, match="storage=float32"):
        LogitsCacheWriter(teacher, data).run()


def test_two_processes_do_not_fill_the_same_cache(common):
    teacher, data = sides(common)
    with (
        filling_module._locked(LogitsCacheWriter(teacher, data).folder),
        pytest.raises(RunError, match="another process"),
    ):
        LogitsCacheWriter(teacher, data).run()


# ---- whom it serves


def test_another_teacher_data_or_precision_is_not_served(common, weights, tmp_path):
    filled(common, "--all")
    teacher, data = sides(common)
    assert find(teacher, data, 0, 2) is not None
    teacher.bf16 = True
    assert find(teacher, data, 0, 2) is None
    _, other = sides(common, "dataset.data_seed=1")
    assert find(*[sides(common)[0], other], 0, 2) is None
    assert find(sides(common)[0], sides(common, "dataset.padding=2")[1], 0, 2) is None
    torch.manual_seed(1)
    save_weights(
        create_model("resnet20", 4), tmp_path / "b.safetensors", {"model": "resnet20", "num_classes": 4}
    )
    assert find(sides([*common, f"teacher.checkpoint={tmp_path / 'b.safetensors'}"])[0], data, 0, 2) is None


def test_a_damaged_cache_is_not_used_and_verify_finds_a_changed_byte(common, capsys):
    cache = filled(common)
    teacher, data = sides(common)
    path = cache.folder / "logits.bin"
    assert not path.stat().st_mode & 0o222
    assert main(["verify", cache.name]) == 0
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    assert main(["verify", cache.name]) == 1
    assert "CHANGED" in capsys.readouterr().out
    path.write_bytes(content[:-2])
    assert find(teacher, data, 0, 2) is None
    assert main(["remove", cache.name]) == 0
    assert not cache.folder.exists()
    assert main(["remove", cache.name]) == 2


def test_auto_takes_what_there_is_and_is_another_run_than_the_live_one(common):
    live = run(plan(*common, "loss=kd", "teacher.cache=off"))
    cache = filled(common)
    read = run(plan(*common, "loss=kd", "seed=0", "output=" + common[-1].removeprefix("output=") + "2"))
    assert live["teacher"]["answers"] == "live"
    assert read["teacher"]["answers"]["cache"] == cache.name
    assert read["hashes"] == {**live["hashes"], "answers": "float16"}
    assert read["results"]["last"]["top1"] == pytest.approx(live["results"]["last"]["top1"], abs=15)


def test_a_run_that_is_finished_live_is_left_alone(common, capsys):
    live = run(plan(*common, "loss=kd"))
    filled(common)
    assert run(plan(*common, "loss=kd"))["hashes"] == live["hashes"]
    assert "already finished" in capsys.readouterr().out


def test_a_loss_that_needs_features_or_has_no_cache_is_refused_where_it_is_required(common):
    with pytest.raises(ValueError, match="at needs the teacher's features"):
        plan(*common, "loss=at", "teacher.cache=require")
    with pytest.raises(ValueError, match="mlkd needs a second"):
        plan(*common, "loss=mlkd", "teacher.cache=require")
    with pytest.raises(ValueError, match="no sealed cache"):
        run(plan(*common, "loss=kd", "teacher.cache=require"))
    assert main(["fill", *common, "loss=at"]) == 2
    assert run(plan(*common, "loss=ce", "teacher.cache=require"))["state"] == "done"


def test_members_read_or_ask_the_live_teacher_as_they_would_alone(common, tmp_path):
    filled(common)
    alone = [run(plan(*common, f"loss={loss}")) for loss in ("kd", "at", "wttm")]
    common_output = [*common, f"output={tmp_path / 'together'}"]
    together = [
        member.record
        for member in run_cohort([plan(*common_output, f"loss={x}") for x in ("kd", "at", "wttm")])
    ]
    answers = [record["teacher"]["answers"] for record in together]
    assert answers[1] == "live"
    assert answers[0] == answers[2] != "live"
    for one, other in zip(alone, together, strict=True):
        assert one["hashes"] == other["hashes"]
        assert same(weights_of(one, common), weights_of(other, common_output))


def test_the_live_network_is_not_asked_for_training_batches(common, monkeypatch):
    filled(common)
    asked = []
    forward = LiveTeacher.forward
    monkeypatch.setattr(
        LiveTeacher,
        "forward",
        lambda self, batch, *more: asked.append(batch.view) or forward(self, batch, *more),
    )
    run(plan(*common, "loss=kd"))
    assert asked
    assert all(view is None for view in asked), "a probe and evaluations"
    run(plan(*common, "loss=at"))
    assert sum(view is not None for view in asked) == 2 * 6


def interrupt(monkeypatch, context: Plan) -> None:
    """Train until the middle of the second epoch."""
    step = StudentModule._optimise

    def interrupted(self, epoch, number, *more):
        self.stop_requested = (epoch, number) == (2, 1)
        step(self, epoch, number, *more)

    with monkeypatch.context() as patch:
        patch.setattr(StudentModule, "_optimise", interrupted)
        with pytest.raises(Interrupted):
            run(context)


def test_a_run_on_stored_answers_resumes_to_the_bit(common, tmp_path, monkeypatch):
    filled(common)
    whole = run(plan(*common, "loss=kd"))
    broken = [*common, f"output={tmp_path / 'broken'}"]
    interrupt(monkeypatch, plan(*broken, "loss=kd"))
    resumed = run(plan(*broken, "loss=kd", "resume=true"))
    assert resumed["hashes"] == whole["hashes"]
    assert same(weights_of(resumed, broken), weights_of(whole, common))


def test_a_run_that_began_live_goes_on_live(common, monkeypatch):
    interrupt(monkeypatch, plan(*common, "loss=kd"))
    filled(common)
    resumed = run(plan(*common, "loss=kd", "resume=true"))
    assert resumed["teacher"]["answers"] == "live"
    assert "answers" not in resumed["hashes"]


def test_a_run_on_stored_answers_does_not_begin_again_when_they_are_gone(common, monkeypatch):
    cache = filled(common)
    interrupt(monkeypatch, plan(*common, "loss=kd"))
    assert main(["remove", cache.name]) == 0
    with pytest.raises(
        ValueError, match=r"started on answers stored in float16, .*cache fill --storage=float16"
    ):
        run(plan(*common, "loss=kd", "resume=true"))
    assert filled(common).name == cache.name
    assert run(plan(*common, "loss=kd", "resume=true"))["hashes"]["answers"] == "float16"


def test_each_storage_is_a_cache_of_its_own_and_the_finer_one_is_read(common):
    for storage in ("float16", "float32"):
        assert main(["fill", *common, "loss=kd", f"--storage={storage}"]) == 0
    assert len(list(Path(os.environ["KDBENCH_HOME"]).glob("cache/*/*/cache.json"))) == 2
    assert run(plan(*common, "loss=kd"))["hashes"]["answers"] == "float32"


def test_a_kill_before_the_card_leaves_files_that_can_be_filled_further(common, monkeypatch):
    seal = LogitsCacheWriter.seal

    def killed(self, seconds, sums):
        with monkeypatch.context() as patch:
            patch.setattr(
                filling_module, "write_atomically", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
            )
            seal(self, seconds, sums)

    with monkeypatch.context() as patch:
        patch.setattr(LogitsCacheWriter, "seal", killed)
        with pytest.raises(KeyboardInterrupt):
            main(["fill", *common, "loss=kd"])
    (logits,) = Path(os.environ["KDBENCH_HOME"]).glob("cache/*/*/logits.bin")
    assert logits.stat().st_mode & 0o200
    assert filled(common).verify()
    assert not logits.stat().st_mode & 0o222


def test_the_folder_names_teacher_data_and_views(common):
    teacher, data = sides(common)
    assert caches_folder(teacher, data).name.startswith("fake-resnet20-")
    assert LogitsCacheWriter(teacher, data).folder.name == "all-float16"
    some = LogitsCacheWriter(teacher, data, keys=torch.tensor([1, 5])).folder.name
    assert some != LogitsCacheWriter(teacher, data, keys=torch.tensor([1, 6])).folder.name
