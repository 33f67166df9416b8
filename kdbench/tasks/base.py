"""The contract of a task: everything that depends on what the rows of a data set are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from kdbench.core.traits import Traits, is_row_wise, tasks_of

if TYPE_CHECKING:  # a table or a report asks for titles only, without torch
    from torch import Tensor, nn

    from kdbench.data.base import TaskData
    from kdbench.metrics.base import Metric

Data = TypeVar("Data", bound="TaskData")


class Capability(StrEnum):
    """Abilities that a run or a command may need of a task. The values are used in messages."""

    DDP = "trainer=ddp"
    """Training on several devices."""

    COHORTS = "cohorts"
    """Several students that share the batches and the teacher's answers of one process."""

    CUDA_GRAPHS = "cuda_graph=true"
    """Recording an optimiser step and replaying it."""

    STORED_ANSWERS = "stored answers"
    """Reading the teacher's answers from a cache."""

    EXTRA_VIEWS = "extra views"
    """Further views of the rows of a batch, and batches drawn by class."""

    TEACHERS = "teachers"
    """A network as the teacher, and as an entry of the teacher store."""

    TOP_K_TEACHERS = "teacher.top_k"
    """A teacher of which only the k most likely classes of each row are known."""

    POLICIES = "loss.policy"
    """Training on responses that the student or the teacher generates."""

    INSTRUMENTS = "kdbench analyze"
    """The measurements and plots of `kdbench analyze`."""

    EXPORT = "kdbench export"
    """A folder that timm loads, and ONNX."""


@dataclass(frozen=True)
class TeacherTraining:
    """The parts of the `kdbench train-teacher` command that depend on the task.

    Attributes:
        dataset: Overrides that choose the data set the teacher is trained on.
        options: Overrides of the teacher's network.
        schedule: The schedule, or None for the one that the command takes by default.
    """

    dataset: tuple[str, ...]
    options: tuple[str, ...] = ()
    schedule: str | None = None


class Task(ABC, Generic[Data]):
    """Everything that depends on what the rows of a data set are: its networks, its metrics and what it supports.

    A data set names its task (`TaskData.task`), and everything else asks the task: no other code tests for a class of
    data or the name of a task. A subclass in a file of `kdbench/tasks/` is registered by that; another package
    registers one with an entry point of the group `kdbench.tasks` (`name = "package.module:Class"`).

    Type parameter: the data sets of the task.
    """

    name: ClassVar[str]
    """The name in data sets, records and messages."""

    metric: ClassVar[str]
    """The key of the main score: in per cent, larger is better. It selects the best epoch and fills the tables."""

    title: ClassVar[str]
    """The main score for people: `top-1`."""

    unit: ClassVar[str] = "images"
    """What a batch counts; also the word in `images_per_second`."""

    rows: ClassVar[str] = "images"
    """What one row of the logits [N, C] answers for: an image, a pixel, a token."""

    like: ClassVar[str] = ""
    """The name of another task whose objectives serve this one too."""

    views: ClassVar[tuple[str, ...]] = ()
    """Views of a text (`Batch.texts`), the default first; none for images."""

    inputs: ClassVar[tuple[str, ...]] = ()
    """The views that `loss.input` may choose as the one that is scored."""

    answer_cache: ClassVar[str] = ""
    """The kind of cache that stores a teacher's answers, a key of `kdbench.teachers.cache.kinds.CACHES`; empty where
    answers are not stored."""

    unsupported: ClassVar[Mapping[Capability, str]] = {
        Capability.DDP: "task={task} supports a single device only",
        Capability.CUDA_GRAPHS: "the steps of task={task} are not recorded",
        Capability.EXTRA_VIEWS: "task={task} has one view of each row",
        Capability.TOP_K_TEACHERS: "that is for students of language models",
        Capability.POLICIES: "task={task} generates no responses",
        Capability.INSTRUMENTS: "the instruments are for image classifiers, not for task={task}",
        Capability.EXPORT: "only image classifiers can be exported, not networks of task={task}",
    }
    """What the task lacks, each with the reason; `{task}` and `{data}` stand for the names. Stored answers are absent
    without an `answer_cache`."""

    def why_not(self, capability: Capability, data: Data | None = None) -> str | None:
        """Return the reason why a capability is absent, or None if it is there.

        Args:
            capability: What is wanted.
            data: The data set, where the answer may depend on it; it need not be set up.
        """
        reason = self.unsupported.get(capability)
        if capability is Capability.STORED_ANSWERS and not self.answer_cache:
            reason = reason or "the answers of task={task} are not stored"
        return None if reason is None else self._fill_in(reason, data)

    def _fill_in(self, reason: str, data: Data | None) -> str:
        return reason.format(task=self.name, data=data.name if data is not None else "the data set")

    def accepts(self, objective: Traits) -> bool:
        """Whether an objective serves this task.

        By default these are the objectives that name the task, or the one that it is like, and all that work row by
        row on logits and labels.
        """
        return (self.like or self.name) in tasks_of(objective) or is_row_wise(objective)

    @abstractmethod
    def check_model(self, data: Data, name: str) -> None:
        """Check a network's name without building it.

        Raises:
            ValueError: No network of that name serves this data set. The message says what is possible.
        """

    @abstractmethod
    def build_model(self, data: Data, name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
        """Build a network for a data set that is set up, initialised from torch's generator.

        Its logits must be [N, C], one row for each element of `Batch.target`.

        Raises:
            ValueError: The name or an option is unknown, or the network does not fit the data.
        """

    def load_pretrained(self, data: Data, name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
        """Build a network with the weights that its authors published for this very task (`checkpoint=hub`).

        Raises:
            ValueError: There are no such weights, or they are for other classes.
        """
        raise ValueError(f"checkpoint=hub: {name} has no published weights for task={self.name}")

    @abstractmethod
    def build_metric(self, data: Data, split: str) -> Metric:
        """Return the metric that accumulates the scores of one network on a split; the data are set up."""

    def build_training_metric(self, data: Data, centroids: Tensor | None = None) -> Metric | None:
        """Return the metric of a teacher on its own training split, or None if there is none.

        Args:
            data: The data set, set up.
            centroids: Fixed class centroids [C, C] of the teacher's objective, if it has some.
        """
        return None

    def teacher_training(self, data: Data, config: Mapping[str, Any], dataset: str) -> TeacherTraining:
        """Return how a teacher for a run is trained: on the data of the run, with all classes or the same tokens.

        Args:
            data: The data of the run; they need not be set up.
            config: The resolved configuration of the run.
            dataset: The option of the group `dataset` that the run chose, or the data set's name.
        """
        return TeacherTraining((f"dataset={dataset}",))
