"""One student: a network, its loss, and how far both have come."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.core.errors import RunError
from kdbench.core.objective import DatasetInfo, Probes
from kdbench.core.types import Batch, Outputs
from kdbench.distributed.collectives import agreed, on_rank_0
from kdbench.losses.composite import CROSS_ENTROPY, Loss
from kdbench.models.checkpoints import save_weights
from kdbench.models.features import answer_batch, classifier, feature_names
from kdbench.tasks import Task
from kdbench.teachers.cache.logits import CachedTeacher
from kdbench.teachers.cache.topk import TopKTeacher
from kdbench.teachers.live import LiveTeacher
from kdbench.training.loggers import RunLogger
from kdbench.training.progress import Progress
from kdbench.training.run_folder import RunFolder
from kdbench.training.schedule import Schedule

_PREDICTOR = "predictor."


class Student(nn.Module):
    """A network in training with its loss; one run, with a folder of its own.

    about: what is known of the network (name, classes, data), written beside its weights. task: of its data.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        schedule: Schedule,
        folder: RunFolder,
        about: Mapping[str, Any],
        task: Task[Any],
    ) -> None:
        super().__init__()
        self.schedule, self.folder, self.about, self.task = schedule, folder, dict(about), task
        self.model = model.to(memory_format=torch.channels_last)
        self.loss = loss
        self.logger: RunLogger | None = None
        """Where else metrics go, of this run alone, while it trains; or None."""
        self.stored: CachedTeacher | TopKTeacher | None = None
        """Who answers training batches in place of the live teacher, or None."""
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        """The network's weights at the epoch best on the validation part, once there is one, and under `predictor.`
        those of an objective that answers for it."""
        self._optimizer_state: dict[str, Any] | None = None

    @property
    def views(self) -> tuple[str, ...]:
        """The views that its batches must have: of text the one that is scored, before those that the loss asks for."""
        first = (self.loss.input or self.task.views[0],) if self.task.views else ()
        return tuple(dict.fromkeys((*first, *self.loss.views)))

    def seen(self, batch: Batch, scored: bool = False) -> Batch:
        """The batch with the views alone that the student looks at; where it is scored, one text of each row."""
        views = {name: batch.views[name] for name in self.loss.views if name in batch.views}
        wanted = self.views[:1] if scored else self.views
        texts = {name: batch.texts[name] for name in wanted if name in batch.texts}
        return replace(batch, views=views, texts=texts)

    def answer(self, batch: Batch) -> Outputs:
        """What the loss looks at, of the batch and of those of its further views that the loss wants."""
        if not self.loss.needs_student:
            return Outputs(batch.inputs.new_zeros(len(batch.inputs), 1))
        return answer_batch(self.model, self.seen(batch), self.loss.student_features)

    @torch.no_grad()
    def setup(self, teacher: LiveTeacher | None, batch: Batch, dataset_info: DatasetInfo, seed: int) -> None:
        """Let the loss make its learnable parts, from both sides' answers to a probe batch in eval mode."""
        if not self.loss.terms:
            return
        if not self.loss.needs_teacher:
            teacher = None
        self.model.eval()
        self.loss.choose_taps(feature_names(self.model), feature_names(teacher.model) if teacher else ())
        own = self.answer(batch)
        theirs = teacher(batch, self.loss.teacher_features) if teacher else Outputs(own.logits)
        with torch.enable_grad():
            self.loss.setup(
                self.model,
                teacher.model if teacher else nn.Identity(),
                Probes(own, theirs),
                dataset_info,
                seed,
            )
        self.loss.to(memory_format=torch.channels_last)
        self.model.train()

    def start_from(self, stage: RunFolder) -> None:
        """Take over what a finished first stage left: the network where it was trained, and the parts that its
        objectives share with those of the same name here."""
        state = agreed(stage.load_state)
        assert state is not None
        if state["needs_student"]:
            self.model.load_state_dict(state["model"])
        for name, term in self.loss.terms.items():
            own, prefix = term.state_dict(), f"objectives.{name}."
            found = {key.removeprefix(prefix): value for key, value in state["loss"].items()}
            term.load_state_dict({**own, **{key: value for key, value in found.items() if key in own}})

    @property
    def parameter_counts(self) -> dict[str, int]:
        """Of the network, and of what answers at test time (SimKD: projector and head for the classifier)."""
        trained, own_head = _size(self.model), classifier(self.model)
        if self.loss.predictor is None:
            return {"student": trained, "at_test": trained}
        replaced = 0 if own_head is None else _size(own_head)
        return {"student": trained, "at_test": trained - replaced + _size(self.loss.predictor)}

    @on_rank_0
    def save_weights(self) -> None:
        """Write the network of the last epoch, and that of the best one, into the run folder; and the objective
        that replaces its head, where there is one."""
        results, about = self.results(), dict(self.about)
        if not results:
            return
        if self.loss.predictor is not None:
            about["predictor"] = type(self.loss.predictor).__name__
        self._save(self._weights(), "student", {**about, **results["last"]})
        if self.best:
            self._save(self.best, "best_validation", {**about, **results["best_validation"]})

    def _weights(self) -> dict[str, Tensor]:
        weights = dict(self.model.state_dict())
        if self.loss.predictor is not None:
            weights |= {_PREDICTOR + name: value for name, value in self.loss.predictor.state_dict().items()}
        return weights

    def _save(self, weights: Mapping[str, Tensor], name: str, about: Mapping[str, Any]) -> None:
        """NAME.safetensors, and the head that answers for it as NAME.predictor.safetensors."""
        own = {key: value for key, value in weights.items() if not key.startswith(_PREDICTOR)}
        head = {key.removeprefix(_PREDICTOR): value for key, value in weights.items() if key not in own}
        save_weights(own, self.folder.path / f"{name}.safetensors", about)
        if head:
            save_weights(head, self.folder.path / f"{name}.predictor.safetensors", about)

    def take_steps(
        self,
        steps: Sequence[int],
        rows: Mapping[str, list[float]],
        seconds: float,
        images: int,
        stop: int,
        steps_per_epoch: int,
        at_seam: bool = True,
    ) -> None:
        """Move on to the step `stop` of this epoch, given the losses by part of the steps that had rows.

        Refuses what is not a number. at_seam: whether a log line ends here; a run that is stopped elsewhere
        is judged where it would have been.
        """
        progress = self.progress
        self._refuse_non_finite(rows, steps)
        self._refuse_divergence(rows, stop, at_seam)
        for key, values in rows.items():
            progress.sums[key] = progress.sums.get(key, 0.0) + sum(values)
        progress.seconds += seconds
        progress.images += images
        progress.step = stop
        row: dict[str, Any] = {"epoch": progress.epoch, "step": stop}
        row |= {f"train/{key}": sum(values) / len(values) for key, values in rows.items()}
        row[f"{self.task.unit}_per_second"] = images / seconds
        row["lr"] = self.schedule.lr_at(progress.epoch, stop - 1, steps_per_epoch)
        self._report(row, steps_per_epoch)

    def close_epoch(self, steps_per_epoch: int, steps_with_rows: int) -> None:
        """Put the epoch's row into the curve, keep the weights if they are the best, and begin the next epoch."""
        progress = self.progress
        evaluated = bool(progress.curve) and progress.curve[-1]["epoch"] == progress.epoch
        row: dict[str, Any] = progress.curve[-1] if evaluated else {"epoch": progress.epoch}
        row |= {f"train/{key}": value / steps_with_rows for key, value in progress.sums.items()}
        if evaluated:
            self.keep_best()
        self._report(row, steps_per_epoch)
        progress.epoch, progress.step, progress.sums = progress.epoch + 1, 0, {}

    def _report(self, row: dict[str, Any], steps_per_epoch: int) -> None:
        self.folder.append_metrics(row)
        if self.logger is not None:
            position = (row["epoch"] - 1) * steps_per_epoch + row.get("step", steps_per_epoch)
            self.logger.log_metrics(
                {key: value for key, value in row.items() if key != "step"}, step=position
            )

    def _refuse_non_finite(self, rows: Mapping[str, list[float]], steps: Sequence[int]) -> None:
        """Name the first step with a total that is not a number, and the loss parts; the last checkpoint stays."""
        for number, (step, total) in enumerate(zip(steps, rows["total"], strict=True)):
            if math.isfinite(total):
                continue
            values = {key: row[number] for key, row in rows.items() if key != "total"}
            bad = {key: value for key, value in values.items() if not math.isfinite(value)}
            named = ", ".join(f"{key} = {value}" for key, value in (bad or {"total": total}).items())
            where = f"epoch {self.progress.epoch}, step {step}"
            raise RunError(f"the loss is not finite at {where}: {named}; {self.folder.last_state_words()}")

    def _refuse_divergence(self, rows: Mapping[str, list[float]], stop: int, at_seam: bool) -> None:
        """Stop at the end of a log line where a term that can fall without end has taken the network with it.

        The measure is ln C, the entropy of knowing nothing: no conditional mutual information is larger, and what is
        taken against centroids that stay behind comes near it only where answers have left their classes.
        """
        unbounded = [name for name, term in self.loss.terms.items() if not term.bounded]
        if not unbounded:
            return
        line = self.progress.line
        for key in (CROSS_ENTROPY, *unbounded):
            line.setdefault(key, []).extend(rows.get(key, ()))
        if not at_seam:
            return
        limit, self.progress.line = math.log(self.about["num_classes"]), {}
        means = {key: statistics.fmean(values) for key, values in line.items() if values}
        for name in unbounded:
            if -means[name] > limit:
                said = ", ".join(f"{key} = {means[key]:.3f}" for key in (CROSS_ENTROPY, name) if key in means)
                where = f"epoch {self.progress.epoch}, the {len(line[name])} steps to {stop}"
                raise RunError(
                    f"diverged at {where}: {said} on average, and ln C = {limit:.3f}; a smaller weight of {name} or a "
                    f"smaller learning rate may help; {self.folder.last_state_words()}"
                )

    def keep_best(self) -> None:
        """Remember the weights of the epoch just evaluated if it is the best on the validation part so far."""
        *earlier, row = self.progress.curve
        metric = f"validation/{self.task.metric}"
        score = row.get(metric)
        if score is not None and all(score > other[metric] for other in earlier):
            self.best = {name: value.detach().clone() for name, value in self._weights().items()}

    @contextmanager
    def at_its_best(self) -> Iterator[None]:
        """Within: it has the weights of the best epoch, where there is one."""
        now = {name: value.detach().clone() for name, value in self._weights().items()}
        self._take(self.best or now)
        yield
        self._take(now)

    def _take(self, weights: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict({k: v for k, v in weights.items() if not k.startswith(_PREDICTOR)})
        if self.loss.predictor is not None:
            head = {k.removeprefix(_PREDICTOR): v for k, v in weights.items() if k.startswith(_PREDICTOR)}
            self.loss.predictor.load_state_dict(head)

    def check_finite(self) -> None:
        """Refuse to commit weights that are not numbers: a resumed run would start from them."""
        for name, value in self.named_parameters():
            if not bool(torch.isfinite(value).all()):
                where = f"epoch {self.progress.epoch}, step {self.progress.step}"
                kept = self.folder.last_state_words()
                raise RunError(f"{name} is not finite before {where}; {kept}")

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Everything that a resumed run needs, as plain containers of tensors."""
        return {
            "model": self.model.state_dict(),
            "best": self.best,
            "loss": self.loss.state_dict(),
            "needs_student": self.loss.needs_student,
            "optimizer": optimizer.state_dict(),
            "progress": asdict(self.progress),
            "threads": torch.get_num_threads(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue at a committed state (the optimiser's part once there is an optimiser)."""
        self.model.load_state_dict(state["model"])
        self.loss.load_state_dict(state["loss"])
        self.best = state["best"]
        self.progress = Progress(**state["progress"])
        self._optimizer_state = state["optimizer"]

    def results(self) -> dict[str, Any]:
        """The scores so far under the names that say how the epoch was chosen (`Progress.results`)."""
        return self.progress.results(self.task.metric)

    def restore_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Give a fresh optimiser the state that `restore` found."""
        if self._optimizer_state is not None:
            optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
