"""A language model that is known by its top_k_answers words: live and stored."""

import os
from pathlib import Path

import pytest
import torch

from kdbench.cli.cache import main
from kdbench.config.build import build
from kdbench.core.logits import TopKLogits
from kdbench.core.records import records
from kdbench.runs.execute import run, run_cohort
from kdbench.runs.hydra_setup import register
from kdbench.runs.plan import Plan, make_plan
from kdbench.runs.weights import load_teacher, teacher_files
from kdbench.tasks import task_of
from kdbench.teachers.cache.topk import TopKCache, TopKTeacher, top_k_answers
from kdbench.teachers.store import put
from kdbench.training.run_folder import RunFolder
from tests.helpers.composition import compose_checked

register()

K = 8


class KillError(Exception):
    """Stands for a kill."""


SHORT = ["dataset=svamp_lm", "dataset.vocabulary=400", "dataset.max_prompt=24", "dataset.max_response=12"]
SHORT += ["teacher=lm_tiny", "student=lm_tiny", "schedule=lm", "schedule.epochs=2", "schedule.batch_size=64"]
SHORT += ["trainer=cpu", "threads=1", "progress=false", "log_every=3", "save_every=0"]
TOP = [*SHORT, f"teacher.top_k={K}"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A store of its own, with a teacher of random weights, sure enough of itself that its tails are small."""
    monkeypatch.setenv("KDBENCH_HOME", str(tmp_path / "home"))
    cfg = compose_checked("train", [*SHORT, "loss=fkl"])
    made = build(cfg.dataset, seed=0, batch_size=8)
    made.setup()
    torch.manual_seed(1)
    network = task_of(made).build_model(made, "lm_tiny")
    with torch.no_grad():
        network.transformer.wte.weight.mul_(3)
    put(network, made.label_space, "lm_tiny", {"model": "lm_tiny", **made.label_info})


def plan(*words: str) -> Plan:
    return make_plan(compose_checked("train", list(words)), dict(word.split("=", 1) for word in words))


def sides(*words: str):
    one = plan(*TOP, "loss=fkl", *words)
    one.data.setup("fit")
    return load_teacher(one, teacher_files(one)), one.data


def filled(*words: str) -> TopKCache:
    assert main(["fill", *TOP, "loss=fkl", *words]) == 0
    (card,) = Path(os.environ["KDBENCH_HOME"]).glob("cache/*/*/cache.json")
    return TopKCache(card.parent)


def weights(output: Path) -> dict[str, torch.Tensor]:
    ((folder, _),) = list(records(output))
    return RunFolder(folder).load_state()["model"]


@pytest.mark.parametrize(("storage", "error"), [("float16", 2**-10), ("float32", 0.0)])
def test_every_stored_row_is_the_live_teachers_up_to_the_rounding_of_the_storage(storage, error):
    cache = filled(f"--storage={storage}")
    teacher, data = sides()
    live, stored = TopKTeacher(teacher, K, data), TopKTeacher(teacher, K, data, cache)
    for step in range(data.steps_per_epoch):
        batch = data.train_batch(2, step)
        ours, theirs = stored(batch).lazy_logits, live(batch).lazy_logits
        # a text among others, longer ones, is answered a little differently
        torch.testing.assert_close(ours.log_probs, theirs.log_probs, rtol=error, atol=1e-5)
        torch.testing.assert_close(ours.tail, theirs.tail, rtol=1e-4, atol=1e-4)
        assert (ours.indices == theirs.indices).float().mean() > 0.99, "but for ties"


def test_live_rows_are_those_of_all_logits_at_once(monkeypatch):
    teacher, data = sides()
    batch = data.train_batch(1, 0)
    wanted = TopKLogits.from_dense(teacher(batch).logits, K)
    monkeypatch.setattr("kdbench.losses.chunked.CHUNK_LOGITS", 400 * 50)
    found = top_k_answers(teacher, batch, K)
    assert len(batch.target) > 100
    assert torch.equal(found.indices, wanted.indices)
    torch.testing.assert_close(found.log_probs, wanted.log_probs)
    torch.testing.assert_close(found.tail, wanted.tail)


def test_a_run_on_stored_words_is_the_run_on_live_ones(tmp_path, capsys):
    live = run(plan(*TOP, "loss=fkl", f"output={tmp_path / 'live'}"))
    filled("--storage=float32")
    stored = run(plan(*TOP, "loss=fkl", "teacher.cache=require", f"output={tmp_path / 'stored'}"))
    assert "answers are read from" in capsys.readouterr().out
    assert live["teacher"]["answers"] == "live"
    assert stored["teacher"]["answers"]["storage"] == "float32"
    ours, theirs = weights(tmp_path / "stored"), weights(tmp_path / "live")
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-4)


def furthest(one: dict, other: dict) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.slow
def test_fewer_words_are_another_run_and_all_words_the_teachers_own(tmp_path):
    """At k = V the loss is the dense one; at few it is not."""
    weights_of = {}
    for name, k in {"dense": "null", "all": "400", "few": "2"}.items():
        words = [*SHORT, f"teacher.top_k={k}", "loss=fkl", f"output={tmp_path / name}"]
        record = run(plan(*words))
        weights_of[name] = weights(tmp_path / name), record["hashes"]["recipe"]
    (dense, recipe), (every, other), (few, another) = weights_of.values()
    assert len({recipe, other, another}) == 3
    assert furthest(dense, every) < furthest(dense, few) / 20


def test_a_policys_own_texts_are_answered_live_beside_a_run_that_reads(tmp_path):
    filled()
    runs = [plan(*TOP, f"loss={loss}", f"output={tmp_path}", "schedule.epochs=1") for loss in ("fkl", "skd")]
    reads, asks = run_cohort(runs)
    assert reads.error is None
    assert asks.error is None
    assert reads.record["teacher"]["answers"]["storage"] == "float16"
    assert asks.record["teacher"]["answers"] == "live"


def test_a_cohort_asks_the_live_teacher_once_for_a_batch(tmp_path, monkeypatch):
    asked = []

    def counted(teacher, batch, k):
        asked.append((batch.epoch, batch.step))
        return top_k_answers(teacher, batch, k)

    monkeypatch.setattr("kdbench.teachers.cache.topk.top_k_answers", counted)
    words = [*TOP, f"output={tmp_path}", "schedule.epochs=1"]
    first, *_ = run_cohort([plan(*words, f"loss={loss}") for loss in ("rkl", "js", "tvd")])
    assert asked == [(1, step) for step in range(first.plan.data.steps_per_epoch)]


def test_a_run_on_stored_words_resumes_to_the_bit(tmp_path, monkeypatch):
    filled()
    run(plan(*TOP, "loss=js", f"output={tmp_path / 'whole'}"))
    append = RunFolder.append_metrics

    def die(folder, row):
        append(folder, row)
        if (row["epoch"], row.get("step")) == (2, 6):
            raise KillError

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_metrics", die)
        with pytest.raises(KillError):
            run(plan(*TOP, "loss=js", f"output={tmp_path / 'broken'}"))
    run(plan(*TOP, "loss=js", f"output={tmp_path / 'broken'}", "resume=true"))
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_cache_of_words_is_listed_and_a_broken_one_said(capsys):
    cache = filled()
    assert main(["list"]) == 0
    assert f"{cache.rows:,} tokens by lm_tiny" in capsys.readouterr().out
    (cache.folder / "tail.bin").unlink()
    assert main(["verify", cache.name]) == 1
    assert main(["list"]) == 0
    assert "tail.bin should have" in capsys.readouterr().out


def test_a_filling_goes_on_where_it_was_stopped():
    whole = filled()
    files = {path.name: path.read_bytes() for path in whole.folder.glob("*.bin")}
    (whole.folder / "cache.json").unlink()
    _, data = sides()
    half = 32 * (data.train_size // 64)
    labels = data.token_views["train"]["text"].labels
    rows = int((labels.values[: labels.offsets[half]] >= 0).sum())
    for name, content in files.items():
        path = whole.folder / name
        path.chmod(0o644)
        path.write_bytes(content[: rows * len(content) // whole.rows] + b"half a block")
    (whole.folder / "filling.json").write_text(f'{{"rows": {half}}}')
    assert main(["fill", *TOP, "loss=fkl"]) == 0
    assert {path.name: path.read_bytes() for path in whole.folder.glob("*.bin")} == files
    assert main(["verify", whole.name]) == 0


def test_what_cannot_be_known_so_is_refused():
    with pytest.raises(ValueError, match="akl: cannot be computed"):
        plan(*TOP, "loss=akl")
    with pytest.raises(ValueError, match="at least 1"):
        plan(*SHORT, "loss=fkl", "teacher.top_k=0")
    with pytest.raises(ValueError, match="that is for students of language models"):
        plan("dataset=fake", "teacher=resnet20", "student=resnet8", "loss=kd", "teacher.top_k=4")
    with pytest.raises(ValueError, match=r"teacher\.top_k says how many"):
        plan(*SHORT, "loss=fkl", "teacher.cache=require")
    with pytest.raises(ValueError, match="no stored answers"):
        plan(*TOP, "loss=skd", "teacher.cache=require")
    with pytest.raises(ValueError, match="no term of this loss"):
        plan(*TOP, "loss=seqkd")
    with pytest.raises(ValueError, match="has 400 tokens"):
        run(plan(*SHORT, "loss=fkl", "teacher.top_k=401"))
    assert main(["fill", *SHORT, "loss=fkl", "teacher.top_k=401"]) == 2
    assert main(["fill", *TOP, "loss=fkl", "--all"]) == 2
    assert plan(*TOP, "loss=ce").why_not_stored == "the loss does not look at a teacher"
