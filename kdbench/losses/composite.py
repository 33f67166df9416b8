"""A loss as a paper uses it: named objectives and the cross-entropy, each with a weight and perhaps a ramp."""

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
from kdbench.losses.chunked import chunk_rows, evaluate_in_chunks
from kdbench.losses.feature_matching import match_features
from kdbench.losses.on_policy import Policy
from kdbench.utils.seeding import seed_scope


class Loss(nn.Module):
    """The weighted sum of objectives and of the cross-entropy on the labels, which has the name `ce`.

    Args:
        weights: The weight of each objective, and of `ce`; without one, `ce` is not computed.
        objectives: The objectives by name; the names are the keys of the logged parts.
        ramps: Epochs over which the weight of a term rises linearly (epoch 1 of 20 has 1/20 of it).
        standardise: Names of objectives that see z-scored logits of both networks (Sun et al. 2024, 2403.01427).
        stage: A phase that is trained before, or None.
        pair: The pair `teacher:student` whose published values the recipe uses; for the record only.
        weight: The weight of the only objective, for recipes with one; it must equal its entry in `weights`.
        input: The view of a text that the cross-entropy and the scores read; None for the first one of the task.
        policy: Generates the responses that a language model learns from; None for those of the data set.
        dot: DOT's delta (`kdbench.training.dot`), or None for one momentum.

    Raises:
        ValueError: A name belongs to no term, or a number is out of range.
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
        """The objective that replaces the student's classifier at test time, or None."""
        return self.terms[self._predictor] if self._predictor else None

    @property
    def needs_teacher(self) -> bool:
        """Whether a term or the policy uses the teacher."""
        generates = self.policy is not None and self.policy.needs_teacher
        return generates or any(term.needs_teacher for term in self.terms.values())

    @property
    def needs_student(self) -> bool:
        """Whether a term uses the student; false for a first stage that trains on the teacher's outputs only."""
        return CROSS_ENTROPY in self.weights or any(term.needs_student for term in self.terms.values())

    @property
    def views(self) -> tuple[str, ...]:
        """The additional views of each row that the objectives read."""
        return tuple(dict.fromkeys(view for term in self.terms.values() for view in term.views))

    @property
    def student_features(self) -> tuple[str, ...]:
        """The features of the student that the objectives read."""
        return tuple(dict.fromkeys(name for term in self.terms.values() for name in term.student_features))

    @property
    def teacher_features(self) -> tuple[str, ...]:
        """The features of the teacher that the objectives read."""
        return tuple(dict.fromkeys(name for term in self.terms.values() for name in term.teacher_features))

    def choose_features(self, student: Sequence[str], teacher: Sequence[str]) -> None:
        """Replace the feature patterns of every objective by names that the two networks have.

        Args:
            student: Names of the student's features.
            teacher: Names of the teacher's features.

        Raises:
            ValueError: A network lacks a feature.
        """
        for name, term in self.terms.items():
            term.student_features, term.teacher_features = match_features(
                name, (term.student_features, student), (term.teacher_features, teacher)
            )

    def setup(
        self, student: nn.Module, teacher: nn.Module, probes: Probes, dataset_info: DatasetInfo, seed: int
    ) -> None:
        """Create the learnable parts of every objective; the random draws of one do not depend on the others."""
        probes = Probes(_float32(probes.student), _float32(probes.teacher))
        for name, term in self.terms.items():
            with seed_scope(seed, "bind", name):
                term.setup(student, teacher, probes, dataset_info)

    def predict(self, student: Outputs) -> Tensor:
        """Return the logits [N, C] for evaluation and export, in float32."""
        student = _float32(student)
        return student.logits if self.predictor is None else self.predictor.predict(student)

    def weight(self, name: str, epoch: int) -> float:
        """Return the weight of a term in an epoch (from 1), including its ramp."""
        ramp = self.ramps.get(name)
        return self.weights[name] * (min(epoch / ramp, 1.0) if ramp else 1.0)

    def forward(
        self, student: Outputs, teacher: Outputs | None, batch: Batch, of_rows: int | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total to be minimised, and the unweighted parts, detached. Both are computed in float32.

        Under DDP, the mean over ranks of the total's gradients is the gradient on the rows of all ranks as one batch.
        Outputs with very many logits are processed in chunks of rows, where every term is a mean over rows.

        Args:
            student: The student's outputs.
            teacher: The teacher's outputs, or None for a loss that needs none.
            batch: The batch; an empty one adds nothing.
            of_rows: The number of rows of this rank in the whole optimiser step, if the batch is a part of these and
                gradients are accumulated. Every row then has the same weight, however the step is divided.

        Raises:
            ValueError: The teacher is missing, or a coupled term cannot be accumulated.
        """
        if teacher is None and self.needs_teacher:
            raise ValueError(f"the loss has {', '.join(self.objectives)}, which need a teacher")
        if of_rows not in (None, len(batch.target)):
            self._refuse_accumulation()
        counts = list(batch.shares) or row_counts(of_rows or len(batch.target), batch.target.device)

        def evaluate(some: Outputs, teacher_rows: Outputs, rows: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            return self._evaluate(some, teacher_rows, rows, counts)

        answer = student if teacher is None else teacher
        rows = chunk_rows(student) if self.separable else None
        if rows is not None and len(batch.target):
            return evaluate_in_chunks(evaluate, student, answer, batch, rows, tuple(self.parameters()))
        return evaluate(student, answer, batch)

    def separate_losses(
        self, student: Outputs, teacher: Outputs | None, batch: Batch
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the label loss and the distillation loss separately, and the parts; see `forward`. Never chunked."""
        counts = list(batch.shares) or row_counts(len(batch.target), batch.target.device)
        answer = student if teacher is None else teacher
        terms, values = self._summands(student, answer, batch, counts)
        return terms.pop(CROSS_ENTROPY), _total(terms), values

    @property
    def separable(self) -> bool:
        """Whether the rows of a batch can be processed in chunks: every term is a mean over rows of logits."""
        return all(
            set(term.needs) <= {"logits", "labels", "epoch"}
            and not (term.couples_rows or term.order_dependent)
            for term in self.terms.values()
        )

    def _evaluate(
        self, student: Outputs, teacher: Outputs, batch: Batch, counts: Sequence[int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return `forward` for rows of a step that has `counts` rows on each rank."""
        terms, values = self._summands(student, teacher, batch, counts)
        return _total(terms), values

    def _summands(
        self, student: Outputs, teacher: Outputs, batch: Batch, counts: Sequence[int]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the weighted terms by name, and the unweighted parts, detached."""
        if not len(batch.target):
            zero = batch.target.new_zeros((), dtype=torch.float32)
            return {CROSS_ENTROPY: 0.0 * student.logits.sum()}, dict.fromkeys(self.weights, zero)
        with torch.autocast(student.lazy_logits.device.type, enabled=False):
            student = _float32(student)
            parts = self._parts(student, _float32(teacher, constant=True), batch, counts)
            weights = {name: self.weight(name, batch.epoch) for name in parts}
            # a part without weight is logged only: 0 * inf would not be 0
            terms = {name: weights[name] * part for name, part in parts.items() if weights[name]}
        return terms, {name: part.detach() for name, part in parts.items()}

    def _parts(
        self, student: Outputs, teacher: Outputs, batch: Batch, counts: Sequence[int]
    ) -> dict[str, Tensor]:
        is_placeholder = (
            bool(batch.shares) and not batch.shares[rank()]
        )  # an empty rank has one row, of weight 0
        share = 0.0 if is_placeholder else len(batch.target) * len(counts) / sum(counts)
        parts: dict[str, Tensor] = {}
        if CROSS_ENTROPY in self.weights:
            parts[CROSS_ENTROPY] = share * F.cross_entropy(student.logits, batch.target)
        if not teacher.lazy_logits.is_complete:
            self.refuse_topk()
            student, teacher = map(Outputs, teacher.lazy_logits.pair_with(student.logits))
        for name, term in self.terms.items():
            arguments = student, teacher, batch
            if term.couples_rows and len(counts) > 1:
                arguments = (
                    joined(student, term.student_features, term.views, counts),
                    joined(teacher, term.teacher_features, term.views, counts),
                    joined_batch(batch, "inputs" in term.needs, counts),
                )
            if name in self.standardise:
                arguments = (_standardised(arguments[0]), _standardised(arguments[1]), arguments[2])
            value = term(*arguments)
            parts[name] = value if term.couples_rows else share * value
        return parts

    def _refuse_accumulation(self) -> None:
        if coupled := [name for name, term in self.terms.items() if term.couples_rows]:
            raise ValueError(
                f"{', '.join(coupled)}: couples the rows of a batch, so gradients cannot be accumulated"
            )

    def refuse_topk(self) -> None:
        """Check that every term can be computed from the teacher's top-k classes (`teacher.top_k`).

        Raises:
            ValueError: One cannot.
        """
        stray = [
            name for name, term in self.terms.items() if not term.f_divergence or name in self.standardise
        ]
        if stray:
            raise ValueError(
                f"{', '.join(stray)}: cannot be computed from a teacher's top-k classes; possible are f-divergences, "
                f"such as fkl, rkl and js, on logits as they are (docs/lm.md names all)"
            )


@dataclass(frozen=True)
class Stage:
    """A phase before the main one, as a run of its own at a constant learning rate.

    The main phase starts from the student that the stage trained, if it did, and objectives of the same name start
    from the parts that both have.

    Attributes:
        loss: The loss of the stage.
        epochs: Its epochs.
        lr: Its learning rate; None for that of the schedule.
    """

    loss: Loss
    epochs: int = 30
    lr: float | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"loss.stage.epochs must be at least 1, got {self.epochs}")
        if self.loss.stage is not None:
            raise ValueError("loss.stage.loss has a stage of its own; only one is possible")


def _total(terms: Mapping[str, Tensor]) -> Tensor:
    return functools.reduce(torch.add, terms.values())


def _standardised(outputs: Outputs) -> Outputs:
    return outputs.with_logits(standardise(outputs.logits))


def _float32(outputs: Outputs, constant: bool = False) -> Outputs:
    """Return outputs in float32 (float64 stays), detached if they are constant."""

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
"""The name of the cross-entropy on the labels."""


def check_names(
    weights: Mapping[str, float],
    ramps: Mapping[str, int],
    standardise: Collection[str],
    objectives: Mapping[str, Objective],
) -> None:
    """Check the names and numbers of a loss.

    Raises:
        ValueError: A name belongs to no term, or a weight or ramp is out of range.
    """
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
                f"loss.standardise: {name} reads more than the logits of one view; mlkd has its own switch "
                f"(loss=mlkd_lskd)"
            )
    if missing := [name for name in objectives if name not in weights]:
        raise ValueError(f"loss.weights has no weight for {', '.join(missing)}")
    if infinite := [name for name, weight in weights.items() if not math.isfinite(weight)]:
        raise ValueError(f"loss.weights.{infinite[0]} must be finite, got {weights[infinite[0]]}")
    if not any(weights.values()):
        raise ValueError("loss.weights: all are 0, so nothing would be learned")
    if bad := [name for name, ramp in ramps.items() if ramp < 1]:
        raise ValueError(f"loss.ramps.{bad[0]} must be at least 1 epoch, got {ramps[bad[0]]}")


def check_weight(weight: float | None, weights: Mapping[str, float]) -> None:
    """Check that `loss.weight`, if given, is the weight of the only objective.

    Raises:
        ValueError: It is not.
    """
    if weight is None or list(weights.values()) == [weight]:
        return
    actual = " and ".join(f"loss.weights.{name}={value}" for name, value in weights.items())
    raise ValueError(
        f"loss.weight={weight}, but {actual or 'this loss has no objective'}: only recipes such as mcmi have one "
        f"loss.weight, which their loss.weights follow"
    )


def check_dot(dot: float | None, weights: Mapping[str, float]) -> None:
    """Check that DOT has a label loss and a distillation loss to separate.

    Raises:
        ValueError: It has not, or its delta is out of range.
    """
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
