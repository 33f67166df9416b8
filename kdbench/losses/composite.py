"""A loss as a paper runs it: named objectives and the cross-entropy, each with a weight and perhaps a ramp."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Objective, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.distributed.collectives import joined, joined_batch, rank, row_counts
from kdbench.functional.divergences import standardise
from kdbench.losses.chunked import in_chunks, rows_at_once
from kdbench.losses.feature_matching import match_features
from kdbench.losses.on_policy import Policy
from kdbench.utils.seeding import seed_scope


class Loss(nn.Module):
    """The weighted sum of objectives, with the cross-entropy on the labels under the name `ce`.

    objectives: the terms by name; the names are the keys of the logged parts.
    weights: one for each objective, and for `ce` (none means 0).
    ramps: epochs over which a term's weight rises linearly, counted from 1 (epoch 1 of 20 has 1/20).
    standardise: names of terms that see z-scored logits on both sides (Sun et al. 2024, 2403.01427).
    stage: what is trained before, or None. policy: who writes the texts that are learned from; None: nobody.
    weight: what the recipe calls the weight of its one objective, as in `weights`; for the command line.
    input: which view of a row of text the cross-entropy and the scores look at; None: the task's first.
    dot: DOT's delta, by which the momenta of the labels' and of the objectives' gradients differ; None: one momentum.
    pair: whose published values the recipe uses, `teacher:student`; for the record, not for the maths.
    """

    neutral_options: ClassVar[Mapping[str, Any]] = {
        "standardise": [],
        "stage": None,
        "input": None,
        "policy": None,
        "dot": None,
    }
    """See `Objective.neutral_options`."""

    def __init__(
        self,
        weights: Mapping[str, float],
        objectives: Mapping[str, Objective] | None = None,
        ramps: Mapping[str, int] | None = None,
        standardise: Sequence[str] = (),
        stage: Stage | None = None,
        pair: str | None = None,
        weight: float | None = None,
        input: str | None = None,
        policy: Policy | None = None,
        dot: float | None = None,
    ) -> None:
        super().__init__()
        objectives = objectives or {}
        self.weights, self.ramps, self.pair = dict(weights), dict(ramps or {}), pair
        self.standardise, self.stage = frozenset(standardise), stage
        self.input, self.policy, self.dot = input, policy, dot
        check_names(self.weights, self.ramps, self.standardise, objectives)
        check_dot(dot, self.weights)
        check_weight(weight, {name: value for name, value in weights.items() if name in objectives})
        self.objectives = nn.ModuleDict(objectives)
        owners = [name for name, objective in objectives.items() if objective.owns_predict]
        if len(owners) > 1:
            raise ValueError(f"at most one objective may own the prediction; {' and '.join(owners)} both do")
        self._predictor = owners[0] if owners else None

    @property
    def terms(self) -> dict[str, Objective]:
        """The objectives by name, typed."""
        return {name: module for name, module in self.objectives.items() if isinstance(module, Objective)}

    @property
    def predictor(self) -> Objective | None:
        """The objective whose head replaces the student's own at test time, or None."""
        return self.terms[self._predictor] if self._predictor else None

    @property
    def needs_teacher(self) -> bool:
        """Whether any term looks at the teacher."""
        writes = self.policy is not None and self.policy.needs_teacher
        return writes or any(term.needs_teacher for term in self.terms.values())

    @property
    def needs_student(self) -> bool:
        """Whether any term looks at the student; false for a first stage on the teacher's answers alone."""
        return CROSS_ENTROPY in self.weights or any(term.needs_student for term in self.terms.values())

    @property
    def views(self) -> tuple[str, ...]:
        """The further views of each row that the objectives want answered."""
        return tuple(dict.fromkeys(view for term in self.terms.values() for view in term.views))

    @property
    def student_features(self) -> tuple[str, ...]:
        """The features that the objectives want of the student."""
        return tuple(dict.fromkeys(name for term in self.terms.values() for name in term.student_features))

    @property
    def teacher_features(self) -> tuple[str, ...]:
        """The features that the objectives want of the teacher."""
        return tuple(dict.fromkeys(name for term in self.terms.values() for name in term.teacher_features))

    def choose_features(self, student: Sequence[str], teacher: Sequence[str]) -> None:
        """Give every objective the names of these two sides' features that its patterns stand for."""
        for name, term in self.terms.items():
            term.student_features, term.teacher_features = match_features(
                name, (term.student_features, student), (term.teacher_features, teacher)
            )

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo, seed: int
    ) -> None:
        """Let every objective make its learnable parts; each draws for itself, whatever the others are."""
        probes = Probes(_float32(probes.student), _float32(probes.teacher))
        for name, term in self.terms.items():
            with seed_scope(seed, "bind", name):
                term.setup(student, teacher, probes, dataset_info)

    def predict(self, student: Outputs) -> Tensor:
        """The logits [N, C] that evaluation and export use, in float32."""
        student = _float32(student)
        return student.logits if self.predictor is None else self.predictor.predict(student)

    def weight(self, name: str, epoch: int) -> float:
        """A term's weight in an epoch (from 1), its ramp included."""
        ramp = self.ramps.get(name)
        return self.weights[name] * (min(epoch / ramp, 1.0) if ramp else 1.0)

    def forward(
        self, student: Outputs, teacher: Outputs | None, batch: Batch, of_rows: int | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total to be minimised, and every unweighted part, detached. Computed in float32.

        Under DDP the mean over ranks of the total's gradients is the gradient on all ranks' rows as one batch.
        of_rows: how many rows this rank has in the whole optimiser step, where the batch is a part of them and the
        gradients are summed: however unevenly it is divided, every row weighs the same. A batch of none adds nothing.

        Outputs of very many logits are taken a few rows at a time, where every term is a mean over rows.
        """
        if teacher is None and self.needs_teacher:
            raise ValueError(f"the loss has {', '.join(self.objectives)}, which need a teacher")
        if of_rows not in (None, len(batch.target)):
            self._refuse_accumulation()
        counts = list(batch.shares) or row_counts(of_rows or len(batch.target), batch.target.device)

        def evaluate(mine: Outputs, theirs: Outputs, rows: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            return self._evaluate(mine, theirs, rows, counts)

        answer = student if teacher is None else teacher
        rows = rows_at_once(student) if self.separable else None
        if rows is not None and len(batch.target):
            return in_chunks(evaluate, student, answer, batch, rows, tuple(self.parameters()))
        return evaluate(student, answer, batch)

    def separate_losses(
        self, student: Outputs, teacher: Outputs | None, batch: Batch
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """As `forward`, with the total in two: what the labels say, and what the objectives say; never in pieces."""
        counts = list(batch.shares) or row_counts(len(batch.target), batch.target.device)
        answer = student if teacher is None else teacher
        terms, values = self._summands(student, answer, batch, counts)
        return terms.pop(CROSS_ENTROPY), _total(terms), values

    @property
    def separable(self) -> bool:
        """Whether the rows of a batch can be taken a few at a time: logits of one view, nothing remembered."""
        return all(
            set(term.needs) <= {"logits", "labels", "epoch"}
            and not (term.couples_rows or term.order_dependent)
            for term in self.terms.values()
        )

    def _evaluate(
        self, student: Outputs, teacher: Outputs, batch: Batch, counts: Sequence[int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `forward`, of rows that are part of a step with so many on each rank."""
        terms, values = self._summands(student, teacher, batch, counts)
        return _total(terms), values

    def _summands(
        self, student: Outputs, teacher: Outputs, batch: Batch, counts: Sequence[int]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the total is the sum of, by name, and every part unweighted and detached."""
        if not len(batch.target):
            nothing = batch.target.new_zeros((), dtype=torch.float32)
            return {CROSS_ENTROPY: 0.0 * student.logits.sum()}, dict.fromkeys(self.weights, nothing)
        with torch.autocast(student.lazy_logits.device.type, enabled=False):
            student = _float32(student)
            parts = self._parts(student, _float32(teacher, constant=True), batch, counts)
            weights = {name: self.weight(name, batch.epoch) for name in parts}
            # an unweighted part is watched only: 0 * inf would not be 0
            terms = {name: weights[name] * part for name, part in parts.items() if weights[name]}
        return terms, {name: part.detach() for name, part in parts.items()}

    def _parts(
        self, student: Outputs, teacher: Outputs, batch: Batch, counts: Sequence[int]
    ) -> dict[str, Tensor]:
        stands_in = bool(batch.shares) and not batch.shares[rank()]  # a row that counts for nothing
        share = 0.0 if stands_in else len(batch.target) * len(counts) / sum(counts)
        parts: dict[str, Tensor] = {}
        if CROSS_ENTROPY in self.weights:
            parts[CROSS_ENTROPY] = share * F.cross_entropy(student.logits, batch.target)
        if not teacher.lazy_logits.is_complete:
            self.refuse_topk()
            student, teacher = map(Outputs, teacher.lazy_logits.pair_with(student.logits))
        for name, term in self.terms.items():
            seen = student, teacher, batch
            if term.couples_rows and len(counts) > 1:
                seen = (
                    joined(student, term.student_features, term.views, counts),
                    joined(teacher, term.teacher_features, term.views, counts),
                    joined_batch(batch, "inputs" in term.needs, counts),
                )
            if name in self.standardise:
                seen = (_standardised(seen[0]), _standardised(seen[1]), seen[2])
            parts[name] = term(*seen) if term.couples_rows else share * term(*seen)
        return parts

    def _refuse_accumulation(self) -> None:
        if coupled := [name for name, term in self.terms.items() if term.couples_rows]:
            said = "couples the rows of a batch, which cannot be a part of a step's"
            raise ValueError(f"{', '.join(coupled)}: {said}")

    def refuse_topk(self) -> None:
        """ValueError where a term cannot be told from a teacher's likeliest classes."""
        stray = [
            name for name, term in self.terms.items() if not term.f_divergence or name in self.standardise
        ]
        if stray:
            raise ValueError(
                f"{', '.join(stray)}: cannot be told from a teacher's likeliest classes; possible are f-divergences, "
                f"such as fkl, rkl and js, on logits as they are (docs/lm.md names all)"
            )


@dataclass(frozen=True)
class Stage:
    """A phase before the main one, a run of its own: `loss` for so many epochs at a constant learning rate.

    The main phase starts from the student that it leaves (if its loss looks at the student), and objectives of
    the same name take over the parts that both have. lr: the schedule's where it is None.
    """

    loss: Loss
    epochs: int = 30
    lr: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"loss.stage.epochs must be at least 1, got {self.epochs}")
        if self.loss.stage is not None:
            raise ValueError("loss.stage.loss has a stage of its own; one is possible")


def _total(terms: Mapping[str, Tensor]) -> Tensor:
    return functools.reduce(torch.add, terms.values())


def _standardised(outputs: Outputs) -> Outputs:
    return outputs.with_logits(standardise(outputs.logits))


def _float32(outputs: Outputs, constant: bool = False) -> Outputs:
    """In float32, whatever autocast made of it (float64 stays); without gradient where it is constant."""

    def full(tensor: Tensor) -> Tensor:
        tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
        return tensor.detach() if constant else tensor

    weight, bias = outputs.classifier or (None, None)
    logits = outputs.lazy_logits.float32()
    return replace(
        outputs,
        raw_logits=logits.detach() if constant else logits,
        features={name: full(feature) for name, feature in outputs.features.items()},
        classifier=None if weight is None else (full(weight), None if bias is None else full(bias)),
        parts={name: _float32(part, constant) for name, part in outputs.parts.items()},
    )


CROSS_ENTROPY = "ce"
"""The term of the labels."""


def check_names(
    weights: Mapping[str, float],
    ramps: Mapping[str, int],
    standardise: Collection[str],
    objectives: Mapping[str, Objective],
) -> None:
    """ValueError where a name is of no term, or a number is none for its term."""
    possible = [CROSS_ENTROPY, *objectives]
    for key, given in (("weights", weights), ("ramps", ramps)):
        if stray := [name for name in given if name not in possible]:
            raise ValueError(f"loss.{key} names {', '.join(stray)}; this loss has {', '.join(possible)}")
    if stray := [name for name in standardise if name not in objectives]:
        raise ValueError(
            f"loss.standardise names {', '.join(stray)}; this loss has {', '.join(objectives) or 'no objective'}"
        )
    for name in standardise:
        if "logits" not in objectives[name].needs or objectives[name].views:
            raise ValueError(
                f"loss.standardise names {name}, which looks at more or other than one view's logits; "
                f"mlkd has a switch of its own (loss=mlkd_lskd)"
            )
    if missing := [name for name in objectives if name not in weights]:
        raise ValueError(f"loss.weights has no weight for {', '.join(missing)}")
    if endless := [name for name, weight in weights.items() if not math.isfinite(weight)]:
        raise ValueError(f"loss.weights.{endless[0]} must be finite, got {weights[endless[0]]}")
    if not any(weights.values()):
        raise ValueError("all weights of the loss are 0: nothing would be learned")
    if bad := [name for name, ramp in ramps.items() if ramp < 1]:
        raise ValueError(f"loss.ramps.{bad[0]} must be at least 1 epoch, got {ramps[bad[0]]}")


def check_weight(weight: float | None, weights: Mapping[str, float]) -> None:
    """Where a recipe has one number for its weight, `weights` must say the same: neither wins over the other."""
    if weight is None or list(weights.values()) == [weight]:
        return
    said = " and ".join(f"loss.weights.{name}={value}" for name, value in weights.items())
    raise ValueError(
        f"loss.weight={weight}, but {said or 'this loss has no objective'}: only recipes such as mcmi have one "
        f"loss.weight, which their loss.weights follow"
    )


def check_dot(dot: float | None, weights: Mapping[str, float]) -> None:
    """DOT is of what the labels say and what something else says."""
    if dot is None:
        return
    if not 0 < dot < 0.5:
        raise ValueError(f"loss.dot must lie in (0, 0.5), got {dot}; loss.dot=null is plain SGD")
    learned = [name for name, weight in weights.items() if weight]
    if CROSS_ENTROPY not in learned or len(learned) < 2:
        raise ValueError(
            f"loss.dot={dot} divides the momentum between ce and the objectives, and the terms with a weight are "
            f"{', '.join(learned)}; give loss.dot=null, or both a weight"
        )
