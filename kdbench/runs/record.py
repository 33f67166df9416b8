"""Write what happened in a run to its record.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from kdbench.core.errors import Interrupted, RunError
from kdbench.core.records import SCHEMA
from kdbench.distributed.collectives import rank
from kdbench.runs.prepare import PreparedRun
from kdbench.tasks import record_entry
from kdbench.teachers.live import LiveTeacher
from kdbench.training.teacher_module import store
from kdbench.utils.hashing import file_hash
from kdbench.utils.provenance import PROVENANCE, provenance

_TEACHER_METADATA = ("nll", "cmi", "taught", "seed", "epoch")
"""Metadata of the teacher's file that the record repeats."""


def begin(run: PreparedRun, teacher: LiveTeacher | None, cohort: Sequence[str]) -> None:
    """Write the record of a run whose training starts.

    Args:
        run: The run.
        teacher: The live teacher, or None.
        cohort: The names of all runs that train side by side.
    """
    plan, earlier = run.plan, run.earlier_record or {}
    config = plan.config
    run.record = {
        "schema": SCHEMA,
        "state": "running",
        "reason": None,
        "is_stage": plan.is_stage,
        "names": plan.names,
        "seed": plan.cfg.seed,
        "table": plan.cfg.table_name,
        "tags": config["tags"],
        "protocol": plan.data.protocol,
        "groups": plan.data.groups,
        "cohort": _companions([*(earlier.get("cohort") or ()), *cohort]),
        **record_entry(plan.task),
        "hashes": run.hashes,
        "config": config,
        **provenance(),
    }
    if earlier:  # other code or another machine may have had a part in the weights
        session = {key: earlier[key] for key in (*PROVENANCE, "state", "reason")}
        run.record["sessions"] = [*earlier.get("sessions", []), session]
    if teacher is not None:
        run.record["teacher"] = _teacher_entry(run, teacher)
    if run.stage is not None:
        stage = {key: run.stage.record.get(key) for key in ("hashes", "seconds", "cohort")}
        run.record["stage"] = {"folder": run.stage.name, **stage}
    run.folder.write_record(run.record)


def finish(run: PreparedRun, teacher_scores: Mapping[str, float]) -> None:
    """Write the weights and the results of a run that was trained to its end; store a teacher.

    Args:
        run: The run.
        teacher_scores: The scores of the teacher on the test split; empty without a teacher.

    Raises:
        RunError: Training ended before the last epoch.
    """
    training, record = run.training, run.record
    assert training is not None
    student = training.student
    epochs, epoch = run.plan.cfg.trainer.max_epochs, student.progress.epoch
    if epoch <= epochs:
        raise RunError(f"training ended at epoch {epoch} of {epochs}")
    training.save_weights()
    seconds = student.progress.seconds
    record |= {"parameters": student.parameter_counts, "results": student.results(), "seconds": seconds}
    record[f"{student.task.unit}_per_second"] = student.progress.images / max(seconds, 1e-9)
    if "teacher" in record:
        record["teacher"] |= teacher_scores
    if run.plan.trains_teacher and rank() == 0:
        print(f"stored {store(training, record, run.plan.cfg.overwrite)}")
    run.folder.write_record({**record, "state": "done"})
    record["state"] = "done"


def fail(run: PreparedRun, error: Exception) -> None:
    """End this run and no other of its cohort."""
    run.error = error
    stop(run, error)


def stop(run: PreparedRun, error: BaseException) -> None:
    """Write why a run stopped before its end; nothing is written if its training never started."""
    if not run.record:
        return
    is_interrupt = isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)
    state = "interrupted" if is_interrupt else "failed"
    run.record |= {"state": state, "reason": str(error) or type(error).__name__}
    with suppress(RunError):  # a full disk was reported by the error itself
        run.folder.write_record(run.record)


def _teacher_entry(run: PreparedRun, teacher: LiveTeacher) -> dict[str, Any]:
    cache = run.answers.cache if run.answers is not None else None
    return {
        "name": teacher.name,
        "file": ", ".join(source.name for source in teacher.sources),
        "file_hash": file_hash(*teacher.sources),
        "hash": teacher.hash,
        "answers": "live" if cache is None else cache.summary,
        "protocol": teacher.about.get("protocol", ""),
        **{key: teacher.about[key] for key in _TEACHER_METADATA if key in teacher.about},
    }


def _companions(names: Sequence[str]) -> list[str] | None:
    """Return all runs that trained beside a run in any of its sessions, or None if it was always alone."""
    different = list(dict.fromkeys(names))
    return different if len(different) > 1 else None
