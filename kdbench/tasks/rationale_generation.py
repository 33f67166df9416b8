"""Rationale generation: a student answers a question and explains the answer (Distilling step-by-step)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from kdbench.tasks.base import Capability, Task

if TYPE_CHECKING:
    from torch import nn

    from kdbench.core.traits import Traits
    from kdbench.data.text.rationale import RationaleData
    from kdbench.metrics.base import Metric


class RationaleGeneration(Task["RationaleData"]):
    """A label and a rationale for each question; the main score is the accuracy of the label.

    Source: Hsieh et al. 2023, arXiv:2305.02301. The teacher is the language model whose rationales are in the data.
    """

    name = "rationale"
    metric = "accuracy"
    title = "accuracy"
    unit = "examples"
    rows = "tokens"
    views = ("predict", "explain", "raw")
    inputs = ("predict", "raw")
    unsupported: ClassVar[Mapping[Capability, str]] = {
        **{key: why for key, why in Task.unsupported.items() if key is not Capability.EXTRA_VIEWS},
        Capability.CUDA_GRAPHS: "the batches of task={task} have another shape in each step",
        Capability.TEACHERS: "the teacher of {data} is the language model whose rationales are in the data",
    }

    def accepts(self, objective: Traits) -> bool:
        """Only objectives that name this task read both texts of a row."""
        return self.name in objective.tasks

    def check_model(self, data: RationaleData, name: str) -> None:
        """Check that a network is one of the T5 sizes of `kdbench.models.language.t5`."""
        from kdbench.models.language.t5 import NETWORKS

        if name not in NETWORKS:
            raise ValueError(
                f"model {name}: task={self.name} of {data.name} needs one of {', '.join(NETWORKS)}"
            )

    def build_model(
        self, data: RationaleData, name: str, options: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """Build a T5 that reads the tokens of the data."""
        from kdbench.models.language.t5 import t5

        data.check_tokenizer((options or {}).get("pretrained"))
        return t5(name, data.num_classes, options=options)

    def build_metric(self, data: RationaleData, split: str) -> Metric:
        """Return the scores of the labels, and on the splits that are scored at the end those of rationales."""
        from kdbench.metrics.rationale import RationaleScores

        return RationaleScores(
            data.texts[split],
            data.decode,
            data.round_trip,
            max_answer=data.max_answer,
            max_rationale=data.max_rationale,
            explained=data.explained_rows if split in data.final_splits else frozenset(),
            is_arithmetic=data.name == "svamp",
        )
