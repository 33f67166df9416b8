"""Language modelling: the next token at each position of a response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from kdbench.tasks.base import Capability, Task, TeacherTraining

if TYPE_CHECKING:
    from torch import nn

    from kdbench.data.text.causal import CausalData
    from kdbench.metrics.base import Metric

_TOKENIZER_KEYS = (
    "name",
    "path",
    "train",
    "test",
    "tokenizer",
    "vocabulary",
    "validation",
    "validation_seed",
    "prompt",
    "max_prompt",
    "max_response",
    "draws",
)
"""The keys of a data set on which its tokenizer, and so its teacher, depends."""


class LanguageModelling(Task["CausalData"]):
    """The next token at each position of a response; the main score is token accuracy."""

    name = "lm"
    metric = "token_accuracy"
    title = "token accuracy"
    unit = "sequences"
    rows = "tokens"
    views = ("text",)
    inputs = ("text",)
    answer_cache = "top_k"
    unsupported: ClassVar[Mapping[Capability, str]] = {
        Capability.DDP: Task.unsupported[Capability.DDP],
        Capability.CUDA_GRAPHS: "the batches of task={task} have another shape in each step",
        Capability.INSTRUMENTS: Task.unsupported[Capability.INSTRUMENTS],
        Capability.EXPORT: Task.unsupported[Capability.EXPORT],
    }

    def check_model(self, data: CausalData, name: str) -> None:
        """Check that a network is one of `kdbench.models.language.causal_lm`."""
        from kdbench.models.language.causal_lm import check_causal

        check_causal(name)

    def build_model(self, data: CausalData, name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
        """Build a causal language model that reads the tokens of the data, with a context that is long enough."""
        from kdbench.models.language.causal_lm import causal_lm

        data.check_tokenizer((options or {}).get("pretrained"))
        network = causal_lm(name, data.num_classes, options)
        data.check_context(network.context)
        return network

    def load_pretrained(
        self, data: CausalData, name: str, options: Mapping[str, Any] | None = None
    ) -> nn.Module:
        """Build a network whose option `pretrained` names a folder or a repository on the hub."""
        network = self.build_model(data, name, options)
        if not getattr(network, "settings", ""):
            raise ValueError(f"checkpoint=hub: {name} has no weights but random ones")
        return network

    def build_metric(self, data: CausalData, split: str) -> Metric:
        """Return loss and perplexity per token, token accuracy, and agreement with the teacher."""
        from kdbench.metrics.token import TokenScores

        return TokenScores()

    def teacher_training(self, data: CausalData, config: Mapping[str, Any], dataset: str) -> TeacherTraining:
        """Return the training on the same texts, so that the teacher has the same tokens."""
        from kdbench.config.build import companions, option_of
        from kdbench.utils.paths import CONF_DIR

        name, given = dataset or data.label_space, config["dataset"]
        if not (CONF_DIR / "dataset" / f"{name}.yaml").is_file():
            name = "instructions"
        usual = option_of("dataset", name)
        keys = {
            key: given.get(key) for key in _TOKENIZER_KEYS if given.get(key) not in (None, usual.get(key))
        }
        options = []
        if source := (config["teacher"].get("options") or {}).get("pretrained"):
            keys.pop("tokenizer", None)  # the network brings its own
            options.append(f"teacher.options.pretrained={source}")
        return TeacherTraining(
            (f"dataset={name}", *(f"dataset.{key}={value}" for key, value in keys.items())),
            tuple(options),
            companions(name).get("teacher_schedule"),
        )
