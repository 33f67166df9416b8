"""Resolve plans to concrete runs: hashes, folder and the source of the teacher's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdbench.core.errors import RunError
from kdbench.distributed.collectives import agreed
from kdbench.models.checkpoints import weights_hash
from kdbench.runs.plan import Plan
from kdbench.runs.weights import build_network, init_file, starts_pretrained
from kdbench.teachers.cache.kinds import CACHES
from kdbench.teachers.cache.logits import STORAGES, CachedTeacher, caches_folder
from kdbench.teachers.cache.topk import TopKTeacher
from kdbench.teachers.live import LiveTeacher
from kdbench.training.run_folder import RunFolder
from kdbench.utils.hashing import digest

AnswerSource = CachedTeacher | TopKTeacher
"""A teacher that answers training batches in place of the live one."""


@dataclass(frozen=True)
class Resolution:
    """The identity of a run, which follows from its plan and from the weights and data on this machine.

    Attributes:
        hashes: Hashes of the recipe, the data and the weights: together the identity of the run.
        folder: The run folder; its name ends in a hash of `hashes`.
        answers: The source of the teacher's answers in training, or None for the live teacher.
    """

    hashes: dict[str, str]
    folder: RunFolder
    answers: AnswerSource | None = None


def resolve(plans: Sequence[Plan], teacher: LiveTeacher | None) -> list[Resolution]:
    """Resolve the plans of one cohort.

    Args:
        plans: Plans that share their data, which are set up.
        teacher: Their live teacher, or None.

    Raises:
        ValueError: A run needs stored answers that are not there.
        RunError: The ranks of a run have different files.
    """
    cache = _find_cache(plans, teacher)
    truncated = None
    if teacher is not None and teacher.top_k:
        truncated = CACHES[plans[0].task.answer_cache].without_cache(teacher, plans[0].data)
    return [_resolve(plan, teacher, cache, truncated) for plan in plans]


def _resolve(
    plan: Plan, teacher: LiveTeacher | None, cache: AnswerSource | None, truncated: AnswerSource | None
) -> Resolution:
    hashes = _hashes(plan, teacher)
    _check_same_on_all_ranks(hashes)
    folder = _folder(plan, hashes)
    storage = agreed(lambda: cache.storage if cache else None)
    if teacher is not None and storage is not None and _reads_cache(plan, teacher, folder):
        # rounded answers lead to other weights, so this is not the same run as with the live teacher
        hashes["answers"] = cache.storage if cache else "not there"
        _check_same_on_all_ranks(hashes)
        return Resolution(hashes, _folder(plan, hashes), cache)
    if plan.storable and plan.cfg.resume and plan.cfg.teacher.cache != "off" and not folder.path.exists():
        _refuse_lost_answers(plan, hashes)
    return Resolution(hashes, folder, truncated if plan.needs_teacher else None)


def _hashes(plan: Plan, teacher: LiveTeacher | None) -> dict[str, str]:
    """Hash everything that identifies the run, except the source of the answers."""
    hashes = {"recipe": plan.recipe_hash, "data": plan.data.fingerprint}
    if teacher is not None and plan.needs_teacher:
        hashes["teacher"] = teacher.hash
    if (init := init_file(plan)) is not None or starts_pretrained(plan):
        hashes["init"] = weights_hash(build_network(plan, init))
    return hashes


def _folder(plan: Plan, hashes: dict[str, str]) -> RunFolder:
    return RunFolder(Path(plan.cfg.output) / f"{plan.title}-{digest(hashes)[:8]}")


def _check_same_on_all_ranks(hashes: dict[str, str]) -> None:
    expected = agreed(lambda: hashes)
    if other := [name for name in expected if expected[name] != hashes.get(name)]:
        raise RunError(f"this rank has another {' and '.join(other)} than rank 0; the files must be the same")


# ---- stored answers


def _find_cache(plans: Sequence[Plan], teacher: LiveTeacher | None) -> AnswerSource | None:
    """Return the stored answers that can serve runs of this cohort, or None."""
    first, data = plans[0], plans[0].data
    if teacher is None or teacher.cache == "off" or not any(plan.storable for plan in plans):
        return None
    storage, epochs = _storage_to_resume(plans, teacher), first.cfg.trainer.max_epochs
    cache = CACHES[first.task.answer_cache].find(teacher, data, first.cfg.seed, epochs, storage)
    if cache is None and teacher.cache == "require" and not first.is_stage:
        raise ValueError(
            f"teacher.cache=require: no sealed cache in {caches_folder(teacher, data)} has the answers that "
            f"{first.title} needs; `kdbench cache fill` with the arguments of this run makes one"
        )
    return cache


def _storage_to_resume(plans: Sequence[Plan], teacher: LiveTeacher) -> str:
    """Return the storage that an unfinished run of these was started with, or `*` for any."""
    for plan in plans:
        if plan.storable and plan.cfg.resume:
            hashes = _hashes(plan, teacher)
            for storage in STORAGES:
                if _folder(plan, {**hashes, "answers": storage}).path.exists():
                    return storage
    return "*"


def _reads_cache(plan: Plan, teacher: LiveTeacher, folder: RunFolder) -> bool:
    """Whether the run reads a cache that is there; a run that started with the live teacher goes on with it."""
    started_live = agreed((folder.path / "record.json").is_file)
    return plan.storable and (teacher.cache == "require" or not started_live)


def _refuse_lost_answers(plan: Plan, hashes: dict[str, str]) -> None:
    """Raise ValueError if an unfinished run used stored answers that no cache has now."""
    for storage in STORAGES:
        folder = _folder(plan, {**hashes, "answers": storage}).path
        if (folder / "state.pt").is_file():
            raise ValueError(
                f"{folder} was started on answers stored in {storage}, and no cache has them now; kdbench cache fill "
                f"--storage={storage} with the arguments of this run makes one; teacher.cache=off is another run"
            )
