"""One run on its way, alone or in a cohort: its plan, its folder, its record, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from omegaconf import OmegaConf

from kdbench.core.errors import Interrupted, RunError
from kdbench.runs.plan import Plan
from kdbench.tasks import record_entry
from kdbench.teachers.cache.logits import CachedTeacher
from kdbench.teachers.cache.topk import TopKTeacher
from kdbench.teachers.live import LiveTeacher
from kdbench.teachers.store import check_free
from kdbench.training.run_folder import SCHEMA, RunFolder
from kdbench.training.student import Student
from kdbench.utils.atomic_io import write_atomically
from kdbench.utils.hashing import file_hash
from kdbench.utils.provenance import PROVENANCE, provenance


class Member:
    """A run from its plan to its record.

    stored: who answers its training batches in the live teacher's place, or None.
    student: None before it is built, and where there is nothing to train.
    error: what ended this run alone, or None.
    """

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        hashes: dict[str, str],
        stored: CachedTeacher | TopKTeacher | None = None,
    ) -> None:
        self.plan, self.folder, self.hashes, self.stored = plan, folder, hashes, stored
        self.student: Student | None = None
        self.stage: Member | None = None
        """The finished first stage that the student starts from."""
        self.earlier: dict[str, Any] | None = None
        """The record of the unfinished run that this one continues."""
        self.resumed_threads: int | None = None
        """How many threads that one had."""
        self.record: dict[str, Any] = {}
        self.error: Exception | None = None

    @property
    def name(self) -> str:
        """The run among all runs: the name of its folder."""
        return self.folder.path.name

    @contextmanager
    def by_itself(self) -> Iterator[None]:
        """What fails within ends this run, and no other."""
        try:
            yield
        except (RunError, ValueError) as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """End this run alone."""
        self.error = error
        self.end(error)

    def open(self) -> tuple[dict[str, Any] | None, bool]:
        """Lock the folder; its record, and whether that is of a finished run that is to be left alone.

        A first stage is what it left: one whose state was deleted to save space is run again.
        """
        plan, folder = self.plan, self.folder
        if plan.trains_teacher and not plan.cfg.overwrite:
            check_free(plan.data.label_space, plan.names["teacher"], self.hashes)
        folder.open(wait=plan.is_stage)
        record = folder.record()
        done = record is not None and record["state"] == "done" and not plan.cfg.overwrite
        return record, done and (not plan.is_stage or (folder.path / "state.pt").is_file())

    def state_to_begin_with(self) -> dict[str, Any] | None:
        """What the folder has of an unfinished run that is to be continued; else it is cleared.

        With both `resume` and `overwrite` an unfinished run goes on, and a finished one begins anew.
        """
        plan, folder, cfg = self.plan, self.folder, self.plan.cfg
        exists = (folder.path / "state.pt").is_file()
        finished = exists and (folder.record() or {}).get("state") == "done"
        if not exists or (cfg.overwrite and (finished or not cfg.resume)):
            folder.clear()
        elif not cfg.resume:
            raise ValueError(
                f"{folder.path} holds an unfinished run; resume=true continues it, overwrite=true starts again"
            )
        if (
            cfg.resume
            and not plan.is_stage
            and not exists
            and (others := sorted(folder.path.parent.glob(f"{plan.title}-*/state.pt")))
        ):
            print(
                f"nothing to resume in {folder.path}; of another recipe, data or teacher: {others[-1].parent}"
            )
        state = folder.load_state()
        write_atomically(folder.path / "config.yaml", OmegaConf.to_yaml(cfg).encode())
        return state

    def begin(self, teacher: LiveTeacher | None, cohort: Sequence[str]) -> None:
        """Write the record of a run that is at work, among those named in `cohort`."""
        plan, earlier = self.plan, self.earlier or {}
        config = plan.config
        self.record = {"schema": SCHEMA, "state": "running", "reason": None, "is_stage": plan.is_stage}
        self.record |= {
            "names": plan.names,
            "seed": plan.cfg.seed,
            "table": plan.cfg.table_name,
            "tags": config["tags"],
            "protocol": plan.data.protocol,
            "groups": plan.data.groups,
            "cohort": _company([*(earlier.get("cohort") or ()), *cohort]),
        }
        self.record |= record_entry(plan.task)
        self.record |= {"hashes": self.hashes, "config": config, **provenance()}
        if earlier:  # what resumed runs did before: other code or another machine may have had a part
            session = {key: earlier[key] for key in (*PROVENANCE, "state", "reason")}
            self.record["sessions"] = [*earlier.get("sessions", []), session]
        if teacher is not None:
            self.record["teacher"] = {
                "name": teacher.name,
                "file": ", ".join(source.name for source in teacher.sources),
                "file_hash": file_hash(*teacher.sources),
                "hash": teacher.hash,
                "answers": "live"
                if self.stored is None or self.stored.cache is None
                else self.stored.cache.summary,
                "protocol": teacher.about.get("protocol", ""),
                **{key: teacher.about[key] for key in _OF_THE_TEACHER if key in teacher.about},
            }
        if self.stage is not None:
            kept = ("hashes", "seconds", "cohort")
            stage = {key: self.stage.record.get(key) for key in kept}
            self.record["stage"] = {"folder": self.stage.name, **stage}
        self.folder.write_record(self.record)

    def end(self, error: BaseException) -> None:
        """Say in the record that the run ended before its end, and why; nothing where it never began."""
        if not self.record:
            return
        state = "interrupted" if isinstance(error, (Interrupted, KeyboardInterrupt, SystemExit)) else "failed"
        self.record |= {"state": state, "reason": str(error) or type(error).__name__}
        with suppress(RunError):  # a full disk has been said already
            self.folder.write_record(self.record)


_OF_THE_TEACHER = ("nll", "cmi", "taught", "seed", "epoch")
"""What its file may say of it, and the record repeats."""


def _company(names: Sequence[str]) -> list[str] | None:
    """All runs that shared time with a run in any of its sessions; None for one that was always alone."""
    together = list(dict.fromkeys(names))
    return together if len(together) > 1 else None
