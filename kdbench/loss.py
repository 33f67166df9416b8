"""A loss as a paper runs it: named objectives and the cross-entropy, each with a weight and perhaps a ramp."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core import Batch, Facts, Objective, Outputs, Probes
from kdbench.seeding import drawn_from

CROSS_ENTROPY = "ce"


class Loss(nn.Module):
    """The weighted sum of objectives, with the cross-entropy on the labels under the name `ce`.

    objectives: the terms by name; the names are the keys of the logged parts.
    weights: one for each objective, and for `ce` (none means 0).
    ramps: epochs over which a term's weight rises linearly, counted from 1 (epoch 1 of 20 has 1/20).
    pair: whose published values the recipe uses, `teacher:student`; for the record, not for the maths.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        objectives: Mapping[str, Objective] | None = None,
        ramps: Mapping[str, int] | None = None,
        pair: str | None = None,
    ) -> None:
        super().__init__()
        objectives = objectives or {}
        self.weights, self.ramps, self.pair = dict(weights), dict(ramps or {}), pair
        _check_names(self.weights, self.ramps, objectives)
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
    def needs_teacher(self) -> bool:
        """Whether any term looks at the teacher."""
        return any(term.needs_teacher for term in self.terms.values())

    @property
    def student_taps(self) -> tuple[str, ...]:
        """The taps that the objectives want of the student."""
        return tuple(dict.fromkeys(tap for term in self.terms.values() for tap in term.student_taps))

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """The taps that the objectives want of the teacher."""
        return tuple(dict.fromkeys(tap for term in self.terms.values() for tap in term.teacher_taps))

    def bind(self, student: nn.Module, teacher: nn.Module, probes: Probes, facts: Facts, seed: int) -> None:
        """Let every objective make its learnable parts; each draws for itself, whatever the others are."""
        probes = Probes(_float32(probes.student), _float32(probes.teacher))
        for name, term in self.terms.items():
            with drawn_from(seed, "bind", name):
                term.bind(student, teacher, probes, facts)

    def predict(self, student: Outputs) -> Tensor:
        """The logits [N, C] that evaluation and export use, in float32."""
        student = _float32(student)
        if self._predictor is None:
            return student.logits
        return self.terms[self._predictor].predict(student)

    def weight(self, name: str, epoch: int) -> float:
        """A term's weight in an epoch (from 1), its ramp included."""
        ramp = self.ramps.get(name)
        return self.weights[name] * (min(epoch / ramp, 1.0) if ramp else 1.0)

    def forward(
        self, student: Outputs, teacher: Outputs | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total to be minimised, and every unweighted part, detached. Computed in float32."""
        with torch.autocast(student.logits.device.type, enabled=False):
            student = _float32(student)
            total = student.logits.new_zeros(())
            parts: dict[str, Tensor] = {}
            if CROSS_ENTROPY in self.weights:
                parts[CROSS_ENTROPY] = F.cross_entropy(student.logits, batch.target)
            if teacher is None and self.needs_teacher:
                raise ValueError(f"the loss has {', '.join(self.objectives)}, which need a teacher")
            answer = _float32(teacher) if teacher is not None else Outputs(student.logits.detach())
            parts |= {name: term(student, answer, batch) for name, term in self.terms.items()}
            for name, part in parts.items():
                weight = self.weight(name, batch.epoch)
                # an unweighted part is watched only: 0 * inf would not be 0
                total = total + weight * part if weight else total
        return total, {name: part.detach() for name, part in parts.items()}


def _check_names(
    weights: Mapping[str, float], ramps: Mapping[str, int], objectives: Mapping[str, Objective]
) -> None:
    possible = [CROSS_ENTROPY, *objectives]
    for key, given in (("weights", weights), ("ramps", ramps)):
        if stray := [name for name in given if name not in possible]:
            raise ValueError(f"loss.{key} names {', '.join(stray)}; this loss has {', '.join(possible)}")
    if missing := [name for name in objectives if name not in weights]:
        raise ValueError(f"loss.weights has no weight for {', '.join(missing)}")
    if endless := [name for name, weight in weights.items() if not math.isfinite(weight)]:
        raise ValueError(f"loss.weights.{endless[0]} must be finite, got {weights[endless[0]]}")
    if not any(weights.values()):
        raise ValueError("all weights of the loss are 0: nothing would be learned")
    if bad := [name for name, ramp in ramps.items() if ramp < 1]:
        raise ValueError(f"loss.ramps.{bad[0]} must be at least 1 epoch, got {ramps[bad[0]]}")


def _float32(outputs: Outputs) -> Outputs:
    return replace(
        outputs,
        logits=outputs.logits.float(),
        taps={name: tap.float() for name, tap in outputs.taps.items()},
        parts={name: _float32(part) for name, part in outputs.parts.items()},
    )
