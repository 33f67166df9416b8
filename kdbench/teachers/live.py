"""The live teacher: a trained network that computes its answers to each batch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from kdbench.core.types import Batch, Outputs
from kdbench.models.bn_folding import fold_batch_norms
from kdbench.models.checkpoints import load_weights, weights_hash
from kdbench.models.features import answer_batch
from kdbench.models.network import TextNetwork
from kdbench.models.registry import create_model
from kdbench.teachers.names import full_name

CacheMode = Literal["auto", "off", "require"]

BuildNetwork = Callable[[str, Mapping[str, Any] | None], nn.Module]
"""Builds a network from its name and options (`Task.build_model`)."""


class LiveTeacher(nn.Module):
    """A frozen network in eval mode. Its outputs carry no gradient.

    Args:
        name: The name in the teacher store, with its variant.
        model: The network.
        sources: The files of its weights.
        about: The metadata in these files.
        bf16: Run under bfloat16 autocast, with BatchNorms folded into convolutions.
        cache: Whether stored answers may, must or must not replace it in training (`kdbench.teachers.cache`).
        top_k: The number of most likely tokens that are used in training, or None for all.

    Attributes:
        hash: Hash of the weights.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        sources: Sequence[Path],
        about: Mapping[str, Any],
        bf16: bool = False,
        cache: CacheMode = "auto",
        top_k: int | None = None,
    ) -> None:
        super().__init__()
        self.name, self.sources, self.about, self.bf16 = name, tuple(sources), dict(about), bf16
        self.cache, self.top_k = cache, top_k
        self.model = model.requires_grad_(False).eval()
        self.hash = weights_hash(model)
        self._folded: nn.Module | None = None

    def train(self, mode: bool = True) -> "LiveTeacher":
        """Stay in eval mode, also if the surrounding module is switched to training."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: Batch, features: tuple[str, ...] = ()) -> Outputs:
        """Return the outputs for a batch and its additional views.

        Args:
            batch: The batch.
            features: Names of the features to return.
        """
        with torch.autocast(batch.inputs.device.type, torch.bfloat16, enabled=self.bf16):
            return answer_batch(self.network_for(batch), batch, features)

    @property
    def precision(self) -> str:
        """The precision of its answers; stored answers of another precision are not used."""
        if not self.bf16:
            return "fp32"
        return "bf16" if isinstance(self.model, TextNetwork) else "bf16, folded"

    def network_for(self, batch: Batch) -> nn.Module:
        """Return the network that computes the answers; it is the same for all features, so that logits are equal.

        Args:
            batch: A batch, for the shape of its inputs.
        """
        if not self.bf16 or isinstance(self.model, TextNetwork):
            return self.model
        if self._folded is None:
            folded = fold_batch_norms(self.model, batch.inputs[:1])
            if folded is not self.model:  # round the weights once instead of in every call
                for module in folded.modules():
                    if isinstance(module, nn.Conv2d):
                        module.to(torch.bfloat16)
            self._folded = folded
        return self._folded


def live_teacher(
    name: str,
    num_classes: int,
    checkpoint: str | None,
    options: Mapping[str, Any] | None = None,
    bf16: bool = False,
    cache: CacheMode = "auto",
    variant: str | None = None,
    init: str | None = None,
    top_k: int | None = None,
    network: BuildNetwork | None = None,
) -> LiveTeacher:
    """Load a trained network as a teacher.

    Args:
        name: The name of the network.
        num_classes: Number of classes C.
        checkpoint: The file of its weights.
        options: Options of the network.
        bf16: See `LiveTeacher`.
        cache: See `LiveTeacher`.
        variant: The variant of this name.
        init: Not used; the start of `kdbench train-teacher`.
        top_k: See `LiveTeacher`.
        network: Builds the network from its name and options; None for `create_model`.

    Raises:
        ValueError: There is no checkpoint, or it does not fit.
    """
    if checkpoint is None:
        raise ValueError(
            f"the teacher {name} has no checkpoint; kdbench.teachers.store.locate finds one by name"
        )
    model = network(name, options) if network else create_model(name, num_classes, options=options)
    about = load_weights(model, Path(checkpoint))
    if about.get("settings", own := getattr(model, "settings", "")) != own:
        raise ValueError(
            f"{checkpoint} was trained as another {name}: the shapes are equal, but its settings (heads, dropout, ...) "
            f"differ from teacher.options"
        )
    model = model.to(memory_format=torch.channels_last)
    return LiveTeacher(full_name(name, variant), model, [Path(checkpoint)], about, bf16, cache, top_k)


def no_teacher(name: str = "none", **_: Any) -> None:
    """Return None: the run has no teacher."""
