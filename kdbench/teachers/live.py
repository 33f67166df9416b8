"""The live teacher: a trained network that answers each batch itself."""

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
    """A frozen network in eval mode. Its answers carry no gradient.

    name: as in the teacher store, with its variant; sources: the files its weights came from; about: what they say of
    them; bf16: answer under bfloat16 autocast, with BatchNorms in the convolutions before them; cache: whether stored
    answers may, must or must not take its place in training (kdbench.teachers.cache.logits); top_k: in training it is
    known by so many likeliest words of each token (kdbench.teachers.cache.topk).
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
        """Stay in eval mode, whatever the module around it does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: Batch, features: tuple[str, ...] = ()) -> Outputs:
        """The outputs for a batch and for its further views: logits [N, C] and the features asked for."""
        with torch.autocast(batch.inputs.device.type, torch.bfloat16, enabled=self.bf16):
            return answer_batch(self.answering(batch), batch, features)

    @property
    def precision(self) -> str:
        """What of its answers' rounding makes stored ones others."""
        if not self.bf16:
            return "fp32"
        return "bf16" if isinstance(self.model, TextNetwork) else "bf16, folded"

    def answering(self, batch: Batch) -> nn.Module:
        """The network that answers: one for whichever features are asked for, so that all see the same logits."""
        if not self.bf16 or isinstance(self.model, TextNetwork):
            return self.model
        if self._folded is None:
            folded = fold_batch_norms(self.model, batch.inputs[:1])
            if folded is not self.model:  # their weights are rounded once, and not in every call
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
    """The trained network `name` with the weights in the file `checkpoint`; ValueError where it does not fit.

    variant: which one of this name; init: where its training starts, which says nothing of one that is trained.
    network: what makes a network by its name and options, where that is not `create_model`.
    """
    if checkpoint is None:
        raise ValueError(
            f"the teacher {name} has no checkpoint; kdbench.teachers.store.locate finds one by name"
        )
    model = network(name, options) if network else create_model(name, num_classes, options=options)
    about = load_weights(model, Path(checkpoint))
    if about.get("settings", own := getattr(model, "settings", "")) != own:
        raise ValueError(
            f"{checkpoint} was trained as another {name}: its files had the same shapes, and other settings (heads, "
            f"dropout, ...) than those that teacher.options says"
        )
    model = model.to(memory_format=torch.channels_last)
    return LiveTeacher(full_name(name, variant), model, [Path(checkpoint)], about, bf16, cache, top_k)


def no_teacher(name: str = "none", **_: Any) -> None:
    """Nobody answers."""
