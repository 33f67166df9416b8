"""Distillation of any two PyTorch modules in a training loop of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from kdbench.config.build import build
from kdbench.config.compose import compose_checked
from kdbench.core.objective import DatasetInfo, Objective, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.losses.composite import CROSS_ENTROPY, Loss
from kdbench.models.features import answer_batch, feature_names
from kdbench.models.network import registered_name
from kdbench.runs.hydra_setup import register

Features = Sequence[str] | Mapping[str, Sequence[str]]
"""Feature names, or feature names by objective."""


class Distiller(nn.Module):
    """A student, a frozen teacher and a distillation loss in one module.

    Calling it runs both networks and returns the loss, computed exactly as a run of `kdbench train` computes it.
    Its parameters are those of the student and of the loss (projections, memory banks); the teacher has none here
    and is not in the state dict. Moving the distiller to a device moves the teacher along.

    Args:
        student: Any network from inputs to logits [N, C].
        teacher: Any network for the same inputs and classes. It is frozen and stays in eval mode.
        loss: The name of a recipe (`kdbench list losses`), which brings cross-entropy and published weights; an
            objective, which is added to cross-entropy; or a mapping of names to objectives, together with `weights`.
        weights: The weight of each term, by name; `ce` is cross-entropy on the labels. It overrides those of a
            recipe. An objective on its own has weight 1 beside a cross-entropy of weight 1.
        student_features: The student's intermediate features for objectives on features: names that a network of
            kdbench or timm declares (`stage1`, `pooled`), or the dotted path of any submodule (`layer1`). A mapping
            gives each objective its own. By default the objective's own choice among the declared names.
        teacher_features: The same for the teacher.
        pair: `teacher:student`, whose published weights a recipe uses, e.g. `resnet32x4:resnet8x4`. By default the
            names of the networks, where kdbench built them.
        train_labels: Labels of the whole training set, int64 [M], for losses that know it (crd, ltkd, vitkd).
        seed: The seed of the loss's learnable parts.

    Raises:
        ValueError: For an unknown recipe or term, a weight that belongs to no term, or a loss that is more than
            one sum of terms per step (a first stage, generated text, DOT); `kdbench.train` runs those.

    Examples:
        >>> distiller = Distiller(student, teacher, "reviewkd",
        ...                       student_features=["layer1", "layer2"], teacher_features=["layer2", "layer3"])
        >>> distiller.setup(images)
        >>> optimizer = torch.optim.SGD(distiller.parameters(), lr=0.05)
        >>> total, parts = distiller(images, target, epoch=1)
        >>> total.backward()
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        loss: str | Objective | Mapping[str, Objective] = "kd",
        *,
        weights: Mapping[str, float] | None = None,
        student_features: Features | None = None,
        teacher_features: Features | None = None,
        pair: str | None = None,
        train_labels: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.student = student
        # In a tuple, the teacher is no submodule: neither its parameters nor its state are the distiller's.
        self._frozen = (teacher.requires_grad_(False).eval(),)
        self.loss = _loss(loss, weights, pair or _pair(teacher, student))
        self.seed = seed
        self._train_labels = train_labels
        self._is_set_up = False
        _check(self.loss, train_labels)
        _set_features(self.loss, "student_features", student_features)
        _set_features(self.loss, "teacher_features", teacher_features)

    @property
    def teacher(self) -> nn.Module:
        """The frozen teacher."""
        return self._frozen[0]

    def setup(self, inputs: Tensor, views: Mapping[str, Tensor] | None = None) -> Self:
        """Let the loss create its learnable parts, from both networks' answers to a batch.

        Call it once, on the device of training and before the optimiser is created. Only shapes matter. Losses
        without learnable parts need it, too.

        Args:
            inputs: An example batch, e.g. images [N, 3, H, W].
            views: Further views of the batch, by name, for a loss that asks for them (`strong` of mlkd).

        Returns:
            The distiller itself.

        Raises:
            ValueError: If a network lacks a feature, or the loss cannot serve these two networks; the message names
                the shapes.
        """
        _check_features(self.loss, "student_features", self.student)
        _check_features(self.loss, "teacher_features", self.teacher)
        self.loss.choose_features(_possible_features(self.student), _possible_features(self.teacher))
        batch = self._batch(inputs, inputs.new_zeros(len(inputs), dtype=torch.int64), None, 1, 0, views)
        training = self.student.training
        self.student.eval()
        with torch.no_grad():
            own = answer_batch(self.student, batch, self.loss.student_features)
            theirs = self._teacher_outputs(batch)
        self.student.train(training)
        with torch.enable_grad():
            self.loss.setup(
                self.student, self.teacher, Probes(own, theirs), self._dataset_info(own), self.seed
            )
        self.loss.to(inputs.device)
        self.loss.to(memory_format=torch.channels_last)  # as in a run, to the bit
        self._is_set_up = True
        return self

    def forward(
        self,
        inputs: Tensor,
        target: Tensor,
        index: Tensor | None = None,
        *,
        epoch: int | None = None,
        step: int = 0,
        views: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, with its parts.

        Args:
            inputs: A batch, e.g. images [N, 3, H, W].
            target: Labels, int64 [N].
            index: Positions of the rows in the training set, int64 [N], for losses that remember rows (crd).
            epoch: The current epoch, from 1. Without it, terms whose weight rises over the first epochs (dkd,
                reviewkd) have their full weight. Objectives that draw or anneal by epoch (crd, ctkd) require it.
            step: The step within the epoch, from 0; losses that draw samples draw anew for each step.
            views: Further views of the same rows, by name, for a loss that asks for them.

        Returns:
            The weighted sum, a scalar to be minimised, and each unweighted term by name, detached.

        Raises:
            ValueError: If `setup` was not called, or the loss needs an argument that is missing.
        """
        if not self._is_set_up:
            raise ValueError("call distiller.setup(inputs) with an example batch first")
        self._check_arguments(index, epoch, views)
        batch = self._batch(inputs, target, index, epoch or self._end_of_ramps, step, views)
        own = answer_batch(self.student, batch, self.loss.student_features)
        teacher = self._teacher_outputs(batch) if self.loss.needs_teacher else None
        total, parts = self.loss(own, teacher, batch)
        return total, parts

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Tensor:
        """Return the logits [N, C] that count at test time, in the student's current mode.

        They are the student's own, or those of the head that replaces its classifier (SimKD).
        """
        batch = self._batch(inputs, inputs.new_zeros(len(inputs), dtype=torch.int64), None, 1, 0, None)
        return self.loss.predict(answer_batch(self.student, batch, self.loss.student_features))

    def train(self, mode: bool = True) -> Self:
        """Switch student and loss between training and evaluation; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert the teacher together with the rest (`to`, `cuda`, `half`, ...)."""
        self.teacher._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @torch.no_grad()
    def _teacher_outputs(self, batch: Batch) -> Outputs:
        return answer_batch(self.teacher, batch, self.loss.teacher_features)

    def _batch(
        self,
        inputs: Tensor,
        target: Tensor,
        index: Tensor | None,
        epoch: int,
        step: int,
        views: Mapping[str, Tensor] | None,
    ) -> Batch:
        rows = torch.arange(len(inputs), device=inputs.device) if index is None else index
        return Batch(inputs, target, rows, epoch=epoch, step=step, views=dict(views or {}))

    @property
    def _end_of_ramps(self) -> int:
        return max(self.loss.ramps.values(), default=1)

    def _dataset_info(self, probe: Outputs) -> DatasetInfo:
        labels = self._train_labels
        if labels is None:
            labels = torch.zeros(0, dtype=torch.int64)
        return DatasetInfo(probe.logits.shape[-1], labels.cpu(), torch.arange(len(labels)))

    def _check_arguments(
        self, index: Tensor | None, epoch: int | None, views: Mapping[str, Tensor] | None
    ) -> None:
        needs = {need: name for name, term in self.loss.terms.items() for need in term.needs}
        if "index" in needs and index is None:
            raise ValueError(
                f"{needs['index']} remembers the rows of the training set; call distiller(inputs, target, index) "
                f"with their positions"
            )
        if "epoch" in needs and epoch is None:
            raise ValueError(
                f"{needs['epoch']} changes with the epoch; call distiller(inputs, target, epoch=1) and so on"
            )
        if missing := [view for view in self.loss.views if view not in (views or {})]:
            raise ValueError(
                f"the loss needs the view {missing[0]!r} of each row; "
                f"call distiller(inputs, target, views={{{missing[0]!r}: ...}})"
            )


def _pair(teacher: nn.Module, student: nn.Module) -> str | None:
    """Return `teacher:student` where kdbench built both networks."""
    names = registered_name(teacher), registered_name(student)
    return f"{names[0]}:{names[1]}" if all(names) else None


def _loss(
    loss: str | Objective | Mapping[str, Objective], weights: Mapping[str, float] | None, pair: str | None
) -> Loss:
    """Build the weighted sum of a recipe's name, an objective, or several."""
    if isinstance(loss, str):
        return _recipe(loss, weights, pair)
    if isinstance(loss, Objective):
        name = type(loss).__module__.rpartition(".")[2]
        loss, weights = {name: loss}, {CROSS_ENTROPY: 1.0, name: 1.0, **(weights or {})}
    if weights is None:
        raise ValueError(f"weights: give one for each of {', '.join(loss)}, and for ce where it is wanted")
    return Loss(weights, loss)


def _recipe(name: str, weights: Mapping[str, float] | None, pair: str | None) -> Loss:
    """Build the loss that `loss=NAME` selects on the command line."""
    register()
    teacher, student = (pair or ":").split(":") if ":" in (pair or ":") else ("", "")
    overrides = [f"loss={name}", "teacher=resnet20", "student=resnet20", "dataset=cifar100"]
    overrides += [f"teacher.name={teacher}", f"student.name={student}"] if teacher and student else []
    overrides += [f"loss.weights.{term}={value}" for term, value in (weights or {}).items()]
    loss: Loss = build(compose_checked("train", overrides).loss)
    return loss


def _check(loss: Loss, train_labels: Tensor | None) -> None:
    """Refuse a loss that needs more than the two networks and a batch."""
    reasons = {
        "has a first stage": loss.stage is not None,
        "learns from generated text": loss.policy is not None,
        "uses DOT, an optimiser with two momenta": loss.dot is not None,
    }
    for name, term in loss.terms.items():
        reasons[f"asks the student for extra forward passes ({name})"] = (
            type(term).extra_forward is not Objective.extra_forward
        )
        reasons[f"needs texts ({name})"] = "texts" in term.needs
    if found := [reason for reason, applies in reasons.items() if applies]:
        raise ValueError(f"the loss {found[0]}; use kdbench.train for it")
    for name, term in loss.terms.items():
        if {"index", "class frequencies"} & set(term.needs) and train_labels is None:
            raise ValueError(f"{name} needs the labels of the training set; pass train_labels=labels")


def _set_features(loss: Loss, attribute: str, features: Features | None) -> None:
    """Replace the features that objectives ask for by those that the user chose."""
    if features is None:
        return
    asking = [name for name, term in loss.terms.items() if getattr(term, attribute)]
    chosen = features if isinstance(features, Mapping) else dict.fromkeys(asking, features)
    if not asking:
        raise ValueError(f"{attribute}: no term of the loss asks for features ({', '.join(loss.terms)})")
    for name, names in chosen.items():
        if name not in asking:
            raise ValueError(f"{attribute}: {name!r} asks for none; possible are {', '.join(asking)}")
        setattr(loss.terms[name], attribute, tuple(names))


def _check_features(loss: Loss, attribute: str, model: nn.Module) -> None:
    """Ask for paths of submodules where a network has no feature of the name that an objective asks for."""
    possible = _possible_features(model)
    has_stages = any(name.startswith("stage") for name in feature_names(model))
    for name, term in loss.terms.items():
        missing = [
            feature
            for feature in getattr(term, attribute)
            if feature not in possible and not (has_stages and feature.startswith("stage"))
        ]
        if missing:
            paths = ", ".join(repr(path) for path, _ in model.named_children())
            raise ValueError(
                f"{name} asks the {attribute.partition('_')[0]} for {', '.join(missing)}, and "
                f"{type(model).__name__} has no feature of that name; pass {attribute}=[...] with paths of its "
                f"submodules: {paths}, ..."
            )


def _possible_features(model: nn.Module) -> tuple[str, ...]:
    """Return the declared names, then every submodule path."""
    return tuple(dict.fromkeys((*feature_names(model), *(name for name, _ in model.named_modules() if name))))
