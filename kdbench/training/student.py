"""One student: a network, its loss, and the progress of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.core.objective import DatasetInfo, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.losses.composite import Loss
from kdbench.models.features import answer_batch, classifier, feature_names
from kdbench.tasks import Task
from kdbench.teachers.cache.logits import CachedTeacher
from kdbench.teachers.cache.topk import TopKTeacher
from kdbench.teachers.live import LiveTeacher
from kdbench.training.progress import Progress
from kdbench.training.schedule import Schedule

PREDICTOR = "predictor."
"""Prefix of the weights of an objective that replaces the classifier (SimKD), in `Student.weights`."""


class Student(nn.Module):
    """A network in training with its loss.

    Attributes:
        model: The network.
        loss: The loss, with the learnable parts of its objectives.
        schedule: Learning rates and optimiser.
        task: The task of the data.
        answers: A source of the teacher's answers that replaces the live teacher, or None.
        progress: Position in training, and the scores so far.
    """

    def __init__(self, model: nn.Module, loss: Loss, schedule: Schedule, task: Task[Any]) -> None:
        super().__init__()
        self.schedule, self.task = schedule, task
        self.model = model.to(memory_format=torch.channels_last)
        self.loss = loss
        self.answers: CachedTeacher | TopKTeacher | None = None
        self.progress = Progress()
        self._optimizer_state: dict[str, Any] | None = None

    @property
    def views(self) -> tuple[str, ...]:
        """The views that batches must have; of texts the one that is scored comes first."""
        first = (self.loss.input or self.task.views[0],) if self.task.views else ()
        return tuple(dict.fromkeys((*first, *self.loss.views)))

    def select_views(self, batch: Batch, scored: bool = False) -> Batch:
        """Return the batch with only the views that this student reads.

        Args:
            batch: A batch with the views of all students of a cohort.
            scored: Keep only the text that is scored.
        """
        views = {name: batch.views[name] for name in self.loss.views if name in batch.views}
        names = self.views[:1] if scored else self.views
        texts = {name: batch.texts[name] for name in names if name in batch.texts}
        return replace(batch, views=views, texts=texts)

    def answer(self, batch: Batch) -> Outputs:
        """Return the outputs that the loss reads, for the batch and its additional views."""
        if not self.loss.needs_student:
            return Outputs(batch.inputs.new_zeros(len(batch.inputs), 1))
        return answer_batch(self.model, self.select_views(batch), self.loss.student_features)

    @torch.no_grad()
    def setup(self, teacher: LiveTeacher | None, batch: Batch, dataset_info: DatasetInfo, seed: int) -> None:
        """Create the learnable parts of the loss, from outputs of both networks in eval mode.

        Args:
            teacher: The teacher, or None.
            batch: A probe batch; only shapes matter.
            dataset_info: The training set.
            seed: Seed of the initial weights.

        Raises:
            ValueError: An objective cannot serve these two networks.
        """
        if not self.loss.terms:
            return
        if not self.loss.needs_teacher:
            teacher = None
        self.model.eval()
        self.loss.choose_features(feature_names(self.model), feature_names(teacher.model) if teacher else ())
        outputs = self.answer(batch)
        teacher_outputs = teacher(batch, self.loss.teacher_features) if teacher else Outputs(outputs.logits)
        with torch.enable_grad():
            self.loss.setup(
                self.model,
                teacher.model if teacher else nn.Identity(),
                Probes(outputs, teacher_outputs),
                dataset_info,
                seed,
            )
        self.loss.to(memory_format=torch.channels_last)
        self.model.train()

    @property
    def parameter_counts(self) -> dict[str, int]:
        """Parameters of the network (`student`), and of what answers at test time (`at_test`).

        The latter differ where an objective replaces the classifier (SimKD: projector and the teacher's classifier).
        """
        trained, head = _parameters(self.model), classifier(self.model)
        if self.loss.predictor is None:
            return {"student": trained, "at_test": trained}
        replaced = 0 if head is None else _parameters(head)
        return {"student": trained, "at_test": trained - replaced + _parameters(self.loss.predictor)}

    def results(self) -> dict[str, Any]:
        """Return the scores so far; see `Progress.results`."""
        return self.progress.results(self.task.metric)

    # ---- weights and state

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the network and, behind `PREDICTOR`, of an objective that replaces its classifier."""
        weights = dict(self.model.state_dict())
        if self.loss.predictor is not None:
            weights |= {PREDICTOR + name: value for name, value in self.loss.predictor.state_dict().items()}
        return weights

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Load the weights that `weights` returned."""
        network, predictor = split_weights(weights)
        self.model.load_state_dict(network)
        if self.loss.predictor is not None:
            self.loss.predictor.load_state_dict(predictor)

    def start_from(self, stage: Mapping[str, Any]) -> None:
        """Start from the state of a finished first stage.

        The network is loaded if the stage trained it, and the parts of objectives that have the same name in both.
        """
        if stage["needs_student"]:
            self.model.load_state_dict(stage["model"])
        for name, term in self.loss.terms.items():
            own, prefix = term.state_dict(), f"objectives.{name}."
            shared = {key.removeprefix(prefix): value for key, value in stage["loss"].items()}
            term.load_state_dict({**own, **{key: value for key, value in shared.items() if key in own}})

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return all state that a resumed run needs, as plain containers of tensors."""
        return {
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict(),
            "needs_student": self.loss.needs_student,
            "optimizer": optimizer.state_dict(),
            "progress": asdict(self.progress),
            "threads": torch.get_num_threads(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue at a saved state; the optimiser's part is loaded by `restore_optimizer`."""
        self.model.load_state_dict(state["model"])
        self.loss.load_state_dict(state["loss"])
        self.progress = Progress(**state["progress"])
        self._optimizer_state = state["optimizer"]

    def restore_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Load the optimiser state of the run that `restore` continues, if there is one."""
        if self._optimizer_state is not None:
            optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None


def split_weights(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split the result of `Student.weights` into those of the network and those of the predictor."""
    network = {key: value for key, value in weights.items() if not key.startswith(PREDICTOR)}
    predictor = {
        key.removeprefix(PREDICTOR): value for key, value in weights.items() if key.startswith(PREDICTOR)
    }
    return network, predictor


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
