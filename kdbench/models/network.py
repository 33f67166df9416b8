"""The base of image networks: named features, a classifier, and registration in timm."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.core.types import Batch, Outputs
from kdbench.models.names import PREFIX

FeatureRecorder = Callable[[str, Tensor], Tensor]
"""Called with the name and value of a feature; the network continues with the returned value."""


def no_recording(name: str, value: Tensor) -> Tensor:
    """Return the value unchanged: the recorder of a plain forward pass."""
    return value


def rectified_feature_names(stages: int) -> tuple[str, ...]:
    """Return the feature names, shallow first, of networks whose stages end with a ReLU after `.pre`."""
    pairs = (f"stage{number}{twin}" for number in range(1, stages + 1) for twin in (".pre", ""))
    return ("stem", *pairs, "unpooled", "pooled")


@runtime_checkable
class TextNetwork(Protocol):
    """A network for texts, which is called with batches.

    Attributes:
        features: Names of its features, shallow first.
    """

    features: tuple[str, ...]

    def answer_batch(self, batch: Batch, features: Sequence[str] = ()) -> Outputs:
        """Return logits [N, V] of the rows of the first text.

        `parts` has the outputs of every text, with padded logits [B, T, V].

        Args:
            batch: The batch.
            features: Names of the features to return.
        """


class Network(nn.Module):
    """An image classifier with named features.

    Attributes:
        features: Names of the features, shallow first: `stem`, `stage1` ... `stageK`, `stageK.pre` before the last
            ReLU of each stage, `unpooled`, the map before pooling, and `pooled`, the input of the classifier.
        name: The name for `kdbench.models.registry.create_model`.
    """

    features: tuple[str, ...]
    name: str

    def forward(self, x: Tensor, record: FeatureRecorder = no_recording) -> Tensor:
        """Return logits [N, C] of images [N, 3, H, W]; each value in `features` passes through `record` once."""
        raise NotImplementedError

    def get_classifier(self) -> nn.Linear:
        """Return the last linear layer; timm's networks have the same method."""
        raise NotImplementedError

    def stage_norms(self) -> dict[str, nn.BatchNorm2d]:
        """Return by stage the BatchNorm whose output is `stageK.pre`, channel by channel; empty if there is none.

        In a residual stage this is the last one in the branch of the last block. In a stage that ends linearly, which
        has no `.pre`, it is the one whose output is the stage.
        """
        return {}


Builder = Callable[..., nn.Module]


def register(
    name: str, build: Builder | None = None, *, features: Mapping[str, str] | None = None
) -> Callable[[Builder], Builder]:
    """Make a network available as `model=NAME`, `student=NAME` and `teacher=NAME`, in timm as `kdbench_NAME`.

    Call it with a builder, or use it as a decorator of one. Any `nn.Module` from images [N, 3, H, W] to
    logits [N, C] will do; no configuration file is needed.

    Args:
        name: The name on command lines and in records.
        build: Called as `build(num_classes=C)`; returns the network with initial weights.
        features: Names of intermediate features, shallow first, and the submodules whose output they are,
            such as `{"stage1": "layer1", "stage2": "layer2"}`. Objectives that ask for `stage*` need these
            names. Any other submodule can be requested by its dotted path. A `Network` declares its own.

    Returns:
        The decorator, which returns the builder unchanged.

    Examples:
        >>> @register("tiny", features={"stage1": "0"})
        ... def tiny(num_classes: int) -> nn.Module:
        ...     return nn.Sequential(conv3x3(3, 8), nn.Flatten(), nn.Linear(8192, num_classes))
    """

    def decorate(build: Builder) -> Builder:
        _register_in_timm(name, build, dict(features or {}))
        return build

    return decorate if build is None else decorate(build)


def label(network: nn.Module, name: str, features: Mapping[str, str]) -> nn.Module:
    """Note a name and named features on a network, and return it.

    Raises:
        ValueError: For a feature whose submodule the network does not have.
    """
    if isinstance(network, Network):
        network.name = name
        return network
    modules = dict(network.named_modules())
    for feature, path in features.items():
        if path not in modules:
            raise ValueError(f"features of {name}: {feature!r} is {path!r}, which is no submodule of it")
    network._kdbench_name = name  # type: ignore[assignment]
    network._kdbench_features = dict(features)  # type: ignore[assignment]
    return network


def registered_name(model: nn.Module) -> str | None:
    """Return the name that `register` gave to this network; None for one that it did not build."""
    name: str | None = model.name if isinstance(model, Network) else getattr(model, "_kdbench_name", None)
    return name


def feature_modules(model: nn.Module) -> dict[str, str]:
    """Return the features that were given to `register`: name -> submodule path, shallow first."""
    modules: dict[str, str] = getattr(model, "_kdbench_features", {})
    return modules


def _register_in_timm(name: str, build: Builder, features: dict[str, str]) -> None:
    from timm.models import load_pretrained, register_model

    def entrypoint(
        pretrained: bool = False, num_classes: int | None = None, pretrained_cfg: Any = None, **options: Any
    ) -> nn.Module:
        settings = dict(getattr(pretrained_cfg, "__dict__", pretrained_cfg or {}))
        if pretrained and not settings:
            raise ValueError(
                f"{name} has no pretrained weights; give the path of a checkpoint, or `local-dir:FOLDER` or "
                f"`hf-hub:REPOSITORY` of one that `kdbench export` made"
            )
        # timm passes its own plumbing (cache_dir, ...) as None where nobody set it
        given = sorted(option for option, value in options.items() if value is not None)
        if given:
            raise ValueError(f"{name} takes num_classes and no further options; given: {', '.join(given)}")
        classes = num_classes or settings.get("num_classes") or 100
        network = label(build(num_classes=classes), name, features)
        if pretrained:
            load_pretrained(network, settings, num_classes=classes)
        return network

    entrypoint.__name__ = entrypoint.__qualname__ = PREFIX + name
    register_model(entrypoint)


def conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution without bias, with padding 1."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, groups=groups, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a 1x1 convolution without bias."""
    return nn.Conv2d(inputs, outputs, 1, stride=stride, groups=groups, bias=False)


def rectified_stage(blocks: nn.Sequential, x: Tensor, stage: str, record: FeatureRecorder) -> Tensor:
    """Run a stage of blocks without their last ReLU, which is applied here so that its input can be recorded."""
    *inner, last = blocks
    for block in inner:
        x = F.relu_(block(x))
    x = record(f"{stage}.pre", last(x))
    return record(stage, F.relu(x))


def by_stage(*norms: Tensor | nn.Module) -> dict[str, nn.BatchNorm2d]:
    """Return BatchNorms, shallow first, by `stage1`, `stage2`, ..."""
    norms_by_stage: dict[str, nn.BatchNorm2d] = {}
    for number, norm in enumerate(norms, start=1):
        assert isinstance(norm, nn.BatchNorm2d)
        norms_by_stage[f"stage{number}"] = norm
    return norms_by_stage


def global_pool(x: Tensor) -> Tensor:
    """Average maps [N, C, H, W] to [N, C]; equal to the published fixed-size pooling at 32x32 inputs."""
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


def kaiming_convolutions(network: nn.Module) -> None:
    """He et al. 2015, fan-out: a normal of std sqrt(2 / (k * k * outputs)); biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def small_normal(linear: nn.Linear) -> None:
    """Weights from a normal of std 0.01, bias zero."""
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
