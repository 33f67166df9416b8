"""Forward passes that report intermediate features by name, for any `nn.Module`.

A feature name is one of

* a name that the network declares: `stage1`, `pooled`, ... of a `Network`, or the keys of the mapping that
  was given to `kdbench.models.network.register`;
* for a timm network, `stem`, `stage1` ... `stageK` and `unpooled`, derived from its `feature_info`;
* `pooled`, the input of the classifier, where the classifier is one linear layer;
* the dotted path of any submodule, such as `layer1` or `blocks.3.mlp`: the output of that submodule.

`answer` combines all four. `record_features` is the part for submodule paths: forward hooks, for as long as a
`with` block lasts.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from kdbench.core.types import Batch, Outputs
from kdbench.models.network import Network, TextNetwork, feature_modules

# How timm's feature lists name a first entry that comes before the first stage
_STEMS = ("stem", "act1", "bn1", "conv_stem")

# Where networks keep their last layer, if they have no `get_classifier`: torchvision's names first
_CLASSIFIER_ATTRIBUTES = ("fc", "classifier", "head", "linear")


@contextmanager
def record_features(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of submodules during the forward passes in a `with` block.

    Args:
        model: Any network; it is not changed, and the hooks are removed at the end of the block.
        names: Dotted submodule paths as in `model.named_modules()`, such as `layer1` or `blocks.3.mlp`.

    Yields:
        A dictionary that each forward pass fills: path -> output, attached to the graph. A submodule that
        runs twice keeps its last output; one that does not run leaves no entry.

    Raises:
        ValueError: For a path that the model does not have, an output that is not a tensor, or one that a
            later in-place operation changed (`relu_` after a BatchNorm): its value would be another layer's.

    Examples:
        >>> with record_features(model, ["layer1", "layer2"]) as features:
        ...     logits = model(images)
        >>> features["layer1"].shape
    """
    values: dict[str, Tensor] = {}
    versions: dict[str, int] = {}
    with ExitStack() as hooks:
        for name in names:
            hook = _output_hook(name, values, versions)
            handle = submodule(model, name).register_forward_hook(hook)
            hooks.callback(handle.remove)
        yield values
    for name, value in values.items():
        if not value.is_inference() and value._version != versions[name]:
            raise ValueError(
                f"feature {name!r} is changed in place by a later layer; name the submodule that changes it"
            )


def submodule(model: nn.Module, name: str) -> nn.Module:
    """Return a submodule by its dotted path; ValueError with the nearest paths if there is none."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if not name or name not in modules:
        raise ValueError(_unknown_feature(model, [name]))
    return modules[name]


def feature_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names that a network declares, in order of depth; submodule paths are possible beyond these.

    A timm network has `stem` if its feature list begins with one, then its features as `stage1` ... `stageK`
    (every block, in a ViT), `unpooled` if it averages its last map over positions, and `pooled` if its
    classifier is one linear layer.
    """
    if isinstance(model, (Network, TextNetwork)):
        return model.features
    pooled = () if classifier(model) is None else ("pooled",)
    if modules := feature_modules(model):
        return (*modules, *(name for name in pooled if name not in modules))
    unpooled = () if _average(model) is None else ("unpooled",)
    return (*_timm_stages(model), *unpooled, *pooled)


def has_feature(model: nn.Module, name: str) -> bool:
    """Whether `answer` can report a feature: a declared name or the path of a submodule."""
    return name in feature_names(model) or (name != "" and name in dict(model.named_modules()))


def classifier(model: nn.Module) -> nn.Linear | None:
    """Return the last linear layer, or None if a network has none or more than one.

    It is `model.get_classifier()`, or the attribute `fc`, `classifier`, `head` or `linear` of a network
    without that method.
    """
    accessor = getattr(model, "get_classifier", None)
    if callable(accessor):
        head = accessor()
        return head if isinstance(head, nn.Linear) else None
    layers = (getattr(model, name, None) for name in _CLASSIFIER_ATTRIBUTES)
    return next((layer for layer in layers if isinstance(layer, nn.Linear)), None)


def answer(model: nn.Module, inputs: Tensor, features: Sequence[str] = ()) -> Outputs:
    """Run one forward pass and return logits, the requested features, and the classifier.

    Args:
        model: Any image classifier.
        inputs: Images [N, 3, H, W].
        features: Declared names or submodule paths. Stages are [N, C, H, W], `pooled` is the classifier's
            input [N, D].

    Returns:
        Logits [N, C], equal to `model(inputs)`, with the features in the requested order.

    Raises:
        ValueError: For a feature that the model does not have.
    """
    declared = feature_names(model)
    paths = {name: feature_modules(model).get(name, name) for name in features}
    # `pooled` of a plain module is the classifier's input unless its mapping names a submodule for it
    hooked = [name for name in features if name not in declared or name in feature_modules(model)]
    modules = dict(model.named_modules()) if hooked else {}
    unknown = [name for name in hooked if not paths[name] or paths[name] not in modules]
    if unknown:
        raise ValueError(_unknown_feature(model, unknown))
    forward = _network_forward if isinstance(model, Network) else _timm_forward
    with record_features(model, [paths[name] for name in hooked]) as outputs:
        logits, values = forward(model, inputs, features)
    if idle := [name for name in hooked if paths[name] not in outputs]:
        raise ValueError(
            f"feature {idle[0]!r}: the submodule {paths[idle[0]]} does not run in the forward pass"
        )
    values |= {name: outputs[paths[name]] for name in hooked}
    head = classifier(model)
    linear = None if head is None else (head.weight, head.bias)
    return Outputs(logits, {name: values[name] for name in features}, linear)


def answer_batch(model: nn.Module, batch: Batch, features: Sequence[str] = ()) -> Outputs:
    """Return `answer` to a batch, with the answers to its additional views in `parts`.

    Images take one forward pass per view; a text network answers every text of the batch in its own
    `answer_batch`.
    """
    if isinstance(model, TextNetwork):
        return model.answer_batch(batch, features)
    first = answer(model, batch.inputs, features)
    return replace(
        first, parts={name: answer(model, inputs, features) for name, inputs in batch.views.items()}
    )


def _unknown_feature(model: nn.Module, names: Sequence[str]) -> str:
    """Explain which features a model has, with the submodule paths nearest to the first unknown name."""
    declared = ", ".join(feature_names(model)) or "none"
    near = get_close_matches(names[0], [path for path, _ in model.named_modules() if path], n=3)
    hint = f"; nearest submodules: {', '.join(near)}" if near else ""
    return f"{type(model).__name__} has no feature {', '.join(map(repr, names))}; it has {declared}{hint}"


def _output_hook(
    name: str, values: dict[str, Tensor], versions: dict[str, int]
) -> Callable[[nn.Module, tuple[Any, ...], object], None]:
    def keep(_: nn.Module, args: tuple[Any, ...], output: object) -> None:
        if not isinstance(output, Tensor):
            raise ValueError(f"feature {name!r}: the submodule returns {type(output).__name__}, not a tensor")
        values[name] = output
        versions[name] = 0 if output.is_inference() else output._version

    return keep


def _input_hook(name: str, values: dict[str, Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        values[name] = args[0]

    return keep


def _network_forward(
    model: nn.Module, inputs: Tensor, features: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    values: dict[str, Tensor] = {}

    def record(name: str, value: Tensor) -> Tensor:
        if name in features:
            values[name] = value
        return value

    return model(inputs, record=record), values


def _timm_forward(model: Any, inputs: Tensor, features: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    values: dict[str, Tensor] = {}
    with _head_inputs(model, values):
        requested = [index for index, name in enumerate(_timm_stages(model)) if name in features]
        if not requested:
            logits = model(inputs)
        else:
            last, stages = model.forward_intermediates(inputs, indices=requested)
            logits = model.forward_head(last)
            values.update(zip((_timm_stages(model)[index] for index in requested), stages, strict=True))
    return logits, values


@contextmanager
def _head_inputs(model: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """Record `pooled`, the classifier's input after dropout, and `unpooled`, the map before pooling."""
    heads = {"unpooled": _average(model), "pooled": classifier(model)}
    with ExitStack() as hooks:
        for name, module in heads.items():
            if module is not None:
                handle = module.register_forward_pre_hook(_input_hook(name, values))
                hooks.callback(handle.remove)
        yield


def _timm_stages(model: nn.Module) -> tuple[str, ...]:
    features: Any = getattr(model, "feature_info", None)
    if not features or not hasattr(model, "forward_intermediates"):
        return ()
    has_stem = features[0]["module"].startswith(_STEMS)
    stages = tuple(f"stage{number}" for number in range(1, len(features) + (not has_stem)))
    return ("stem", *stages) if has_stem else stages


def _average(model: nn.Module) -> nn.Module | None:
    """Return the module of a timm network that averages its last map over positions, or None."""
    from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d

    pool = getattr(model, "global_pool", None)
    return pool if isinstance(pool, SelectAdaptivePool2d) and pool.pool_type == "avg" else None
