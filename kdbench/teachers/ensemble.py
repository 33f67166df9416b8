"""Ensembles: several trained networks as one teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from kdbench.losses.composite import Loss
from kdbench.teachers.live import BuildNetwork, CacheMode, LiveTeacher, live_teacher
from kdbench.teachers.names import ENSEMBLE_SEPARATOR, network_of

Average = Literal["probabilities", "logits"]


class Ensemble(nn.Module):
    """A network whose logits [N, C] are the average of those of its members.

    Args:
        members: The networks.
        average: `probabilities`, the logarithm of the members' mean softmax, or `logits`, their mean.
        weights: Weights of the members, which are normalised; None for equal ones.
    """

    def __init__(
        self, members: Sequence[nn.Module], average: Average, weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        share = torch.tensor(list(weights or [1.0] * len(members)), dtype=torch.float64)
        # as buffers they are in the state dict, and so in the hash of the teacher's weights
        self.share: Tensor
        self.of_logits: Tensor
        self.register_buffer("share", (share / share.sum()).float())
        self.register_buffer("of_logits", torch.tensor(average == "logits"))
        self._average = average

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the average, computed in float32."""
        answers = torch.stack([member(inputs).float() for member in self.members])
        share = self.share.view(-1, 1, 1)
        if self._average == "logits":
            return (share * answers).sum(dim=0)
        return (answers.log_softmax(dim=-1) + share.log()).logsumexp(dim=0)


def ensemble_teacher(
    name: str,
    members: Sequence[str],
    num_classes: int,
    checkpoints: Mapping[str, str] | None,
    average: Average = "probabilities",
    weights: Sequence[float] | None = None,
    bf16: bool = False,
    cache: CacheMode = "auto",
    network: BuildNetwork | None = None,
) -> LiveTeacher:
    """Create the teacher that averages trained networks.

    Args:
        name: The name of the configuration option; the teacher is named after its members.
        members: Names as in the teacher store, with the variant behind `@`.
        num_classes: The number of classes C.
        checkpoints: The file with the weights of each member.
        average: What is averaged, see `Ensemble`.
        weights: One positive number for each member; None weights all alike.
        bf16: Whether the members run under bfloat16 autocast.
        cache: Whether stored answers may, must or must not take its place.
        network: Builds a member from its name and options; None for `create_model`.

    Raises:
        ValueError: A file does not fit, or the members were trained on other classes, or in another order.
    """
    files = checkpoints or {}
    teachers = [
        live_teacher(network_of(member), num_classes, files.get(member), network=network)
        for member in members
    ]
    about: dict[str, object] = {}
    for member, teacher in zip(members, teachers, strict=True):
        classes = teacher.about.get("classes")
        if classes is not None and about.setdefault("classes", classes) != classes:
            raise ValueError(f"{members[0]} and {member} were trained on other classes, or in another order")
    model = Ensemble([teacher.model for teacher in teachers], average, weights)
    sources = [source for teacher in teachers for source in teacher.sources]
    return LiveTeacher(ENSEMBLE_SEPARATOR.join(members), model, sources, about, bf16, cache)


def check_ensemble(
    members: Sequence[str], weights: Sequence[float] | None, checkpoints: Mapping[str, str] | None, loss: Loss
) -> None:
    """Check the settings of an ensemble, and that the loss needs only logits of the teacher.

    Raises:
        ValueError: They do not fit together.
    """
    if not members or len(set(members)) != len(members):
        raise ValueError(f"teacher.members={list(members)}: give each one once, and at least one")
    if stray := [name for name in checkpoints or {} if name not in members]:
        raise ValueError(
            f"teacher.checkpoints names {', '.join(stray)}; the members are {', '.join(members)}"
        )
    if weights is not None and (len(weights) != len(members) or not all(0 < w < math.inf for w in weights)):
        raise ValueError(
            f"teacher.weights={list(weights)}: a positive number for each of {', '.join(members)}"
        )
    for name, term in loss.terms.items():
        if term.teacher_features or {"classifier", "teacher weights"} & set(term.needs):
            raise ValueError(
                f"teacher=ensemble: an ensemble has logits only, and {name} needs more of its teacher: "
                f"{', '.join(term.teacher_features) or ', '.join(term.needs)}; one network can be its teacher"
            )
    if loss.stage is not None:
        check_ensemble(members, weights, checkpoints, loss.stage.loss)
