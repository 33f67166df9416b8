"""Which run a plan is: its hashes, its folder, and who answers its batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdbench.core.errors import RunError
from kdbench.distributed.collectives import agreed
from kdbench.models.checkpoints import weights_hash
from kdbench.runs.plan import Plan, recipe_hash
from kdbench.runs.record import Member
from kdbench.runs.weights import init_file, is_pretrained, network
from kdbench.teachers.cache.kinds import CACHES
from kdbench.teachers.cache.logits import STORAGES, CachedTeacher, place
from kdbench.teachers.cache.topk import TopKTeacher
from kdbench.teachers.live import LiveTeacher
from kdbench.training.run_folder import RunFolder
from kdbench.utils.hashing import digest


def member_of(
    plan: Plan,
    teacher: LiveTeacher | None,
    stored: CachedTeacher | TopKTeacher | None,
    words: TopKTeacher | None,
) -> Member:
    """The run that a plan is, of these weights and data; stored and words: who can answer for the live teacher."""
    hashes = _hashes(plan, teacher)
    _check_same(hashes)
    folder = _folder(plan, hashes)
    storage = agreed(lambda: stored.storage if stored else None)
    if teacher is not None and storage is not None and _is_served(plan, teacher, folder):
        # rounded answers give other weights: another run than with the live teacher
        hashes["answers"] = stored.storage if stored else "not there"
        _check_same(hashes)
        return Member(plan, _folder(plan, hashes), hashes, stored)
    if plan.storable and plan.cfg.resume and plan.cfg.teacher.cache != "off" and not folder.path.exists():
        _refuse_lost_answers(plan, hashes)
    return Member(plan, folder, hashes, words if plan.needs_teacher else None)


def _hashes(plan: Plan, teacher: LiveTeacher | None) -> dict[str, str]:
    """Of everything that a run is, but for who answers."""
    hashes = {"recipe": recipe_hash(plan), "data": plan.data.fingerprint}
    if teacher is not None and plan.needs_teacher:
        hashes["teacher"] = teacher.hash
    if (init := init_file(plan)) is not None or is_pretrained(plan):
        hashes["init"] = weights_hash(network(plan, init))
    return hashes


def _begun_on(plans: Sequence[Plan], teacher: LiveTeacher) -> str:
    """The storage whose answers a run of these, to be resumed, was begun on; `*`: any will do."""
    for plan in plans:
        if plan.storable and plan.cfg.resume:
            hashes = _hashes(plan, teacher)
            for storage in STORAGES:
                if _folder(plan, {**hashes, "answers": storage}).path.exists():
                    return storage
    return "*"


def _refuse_lost_answers(plan: Plan, hashes: dict[str, str]) -> None:
    """ValueError where there is an unfinished run on stored answers, and they are no longer there."""
    for storage in STORAGES:
        folder = _folder(plan, {**hashes, "answers": storage}).path
        if (folder / "state.pt").is_file():
            raise ValueError(
                f"{folder} was begun on answers stored in {storage}, and no cache has them now: kdbench cache fill "
                f"--storage={storage} with the arguments of this run makes one; teacher.cache=off is another run"
            )


def _check_same(hashes: dict[str, str]) -> None:
    """All ranks train one run: machines may have other files."""
    wanted = agreed(lambda: hashes)
    if other := [name for name in wanted if wanted[name] != hashes.get(name)]:
        raise RunError(f"this rank has another {' and '.join(other)} than rank 0; the files must be the same")


def _folder(plan: Plan, hashes: dict[str, str]) -> RunFolder:
    return RunFolder(Path(plan.cfg.output) / f"{plan.title}-{digest(hashes)[:8]}")


def stored_answers(plans: Sequence[Plan], teacher: LiveTeacher | None) -> CachedTeacher | TopKTeacher | None:
    """The stored answers that can serve runs of this cohort, or None; ValueError where there must be some."""
    first, data = plans[0], plans[0].data
    if teacher is None or teacher.cache == "off" or not any(plan.storable for plan in plans):
        return None
    storage, epochs = _begun_on(plans, teacher), first.cfg.trainer.max_epochs
    cache = CACHES[first.task.answer_cache]
    if (found := cache.find(teacher, data, first.cfg.seed, epochs, storage)) is not None:
        return found
    if teacher.cache == "require" and not first.is_stage:
        raise ValueError(
            f"teacher.cache=require, and no sealed cache in {place(teacher, data)} has what {first.title} will ask; "
            f"`kdbench cache fill` with the arguments of this run makes one"
        )
    return None


def _is_served(plan: Plan, teacher: LiveTeacher, folder: RunFolder) -> bool:
    """Whether stored answers take the live teacher's place; a run that began with it goes on with it."""
    context = agreed((folder.path / "record.json").is_file)
    return plan.storable and (teacher.cache == "require" or not context)
