"""What the rows of a data set are: images, questions with rationales, tokens of a text."""

from __future__ import annotations

from dataclasses import dataclass

from kdbench.core.objective import Objective


@dataclass(frozen=True, slots=True)
class Task:
    """What the rows of a data set are, and which of its scores a run is judged by.

    metric: the main score, in per cent, larger is better; title: what people call it. unit: what a batch counts.
    views: what a row of text may be shown as (`Batch.texts`), the one that is scored first unless the loss says another
    (`Loss.input`), which must be one of `inputs`: those that are answered by what is scored. Images have none.
    like: the task whose objectives serve this one, where it is not itself.
    """

    name: str
    metric: str
    title: str
    unit: str = "images"
    views: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    like: str = ""

    @property
    def kind(self) -> str:
        """The task whose objectives serve it: `images`, `rationale`, `lm`."""
        return self.like or self.name


TASKS = {
    task.name: task
    for task in (
        Task("images", "top1", "top-1"),
        Task(
            "rationale", "accuracy", "accuracy", "examples", ("predict", "explain", "raw"), ("predict", "raw")
        ),
        Task("lm", "token_accuracy", "token accuracy", "sequences", ("text",), ("text",)),
        Task("instructions", "rouge_l", "ROUGE-L", "sequences", ("text",), ("text",), like="lm"),
    )
}
"""By name. A record that names no task is of a run on images."""


def tasks_of(objective: Objective | type[Objective]) -> tuple[str, ...]:
    """The names of the tasks that an objective can be used for."""
    row_wise = set(objective.needs) <= {"logits", "labels", "epoch"} and not objective.views
    return objective.tasks or (("images", "lm") if row_wise else ("images",))
