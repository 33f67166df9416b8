"""What a model answers: logits, and the intermediate values asked for by name."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from torch import Tensor, nn

from kdbench.core.types import Batch, Outputs
from kdbench.models.network import Network, TextNetwork

# How timm's feature lists name a first entry that comes before the first stage
_STEMS = ("stem", "act1", "bn1", "conv_stem")


def feature_names(model: nn.Module) -> tuple[str, ...]:
    """The features that `answer` can be asked for, in order of depth; none for one that is unknown here.

    A timm network has `stem` where its feature list begins with one, then its features as `stage1` ...
    `stageK` (every block, in a ViT), `unpooled` where it averages its last map over positions, and `pooled`
    where its classifier is one linear layer.
    """
    if isinstance(model, (Network, TextNetwork)):
        return model.features
    pooled = () if classifier(model) is None else ("pooled",)
    unpooled = () if _average(model) is None else ("unpooled",)
    return (*_timm_stages(model), *unpooled, *pooled)


def classifier(model: nn.Module) -> nn.Linear | None:
    """The last linear layer, or None where a model has none or more than one."""
    accessor = getattr(model, "get_classifier", None)
    head = accessor() if callable(accessor) else None
    return head if isinstance(head, nn.Linear) else None


def _average(model: nn.Module) -> nn.Module | None:
    """The module of a timm network that averages its last map over positions, or None."""
    pool = getattr(model, "global_pool", None)
    return pool if isinstance(pool, SelectAdaptivePool2d) and pool.pool_type == "avg" else None


def answer(model: nn.Module, inputs: Tensor, features: Sequence[str] = ()) -> Outputs:
    """One forward pass: logits [N, C], equal to `model(inputs)`, the features asked for, and the classifier.

    inputs: images [N, 3, H, W]. Stages are [N, C, H, W], `pooled` is the classifier's input [N, D].
    Raises ValueError for a feature that the model does not have.
    """
    known = feature_names(model)
    unknown = [name for name in features if name not in known]
    if unknown:
        raise ValueError(
            f"{type(model).__name__} has no feature {', '.join(map(repr, unknown))};"
            f" it has {', '.join(known) or 'none'}"
        )
    logits, values = (_tapped if isinstance(model, Network) else _timm_tapped)(model, inputs, features)
    head = classifier(model)
    linear = None if head is None else (head.weight, head.bias)
    return Outputs(logits, {name: values[name] for name in features}, linear)


def answer_batch(model: nn.Module, batch: Batch, features: Sequence[str] = ()) -> Outputs:
    """`answer` to a batch, with the answers to its further views as `parts`: a forward pass for each view;
    a text network answers each text of the batch."""
    if isinstance(model, TextNetwork):
        return model.answer_batch(batch, features)
    first = answer(model, batch.inputs, features)
    return replace(
        first, parts={name: answer(model, inputs, features) for name, inputs in batch.views.items()}
    )


def _tapped(model: nn.Module, inputs: Tensor, features: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    values: dict[str, Tensor] = {}

    def record(name: str, value: Tensor) -> Tensor:
        if name in features:
            values[name] = value
        return value

    return model(inputs, record=record), values


def _timm_stages(model: nn.Module) -> tuple[str, ...]:
    features: Any = getattr(model, "feature_info", None)
    if not features or not hasattr(model, "forward_intermediates"):
        return ()
    has_stem = features[0]["module"].startswith(_STEMS)
    stages = tuple(f"stage{number}" for number in range(1, len(features) + (not has_stem)))
    return ("stem", *stages) if has_stem else stages


def _timm_tapped(model: Any, inputs: Tensor, features: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    values: dict[str, Tensor] = {}
    with _inputs_of_head(model, values):
        asked = [index for index, name in enumerate(_timm_stages(model)) if name in features]
        if not asked:
            logits = model(inputs)
        else:
            last, stages = model.forward_intermediates(inputs, indices=asked)
            logits = model.forward_head(last)
            values.update(zip((_timm_stages(model)[index] for index in asked), stages, strict=True))
    return logits, values


@contextmanager
def _inputs_of_head(model: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """Within: `pooled` is what the classifier is given, dropout included, so it is never drawn twice, and
    `unpooled` what is averaged before."""
    heads = {"unpooled": _average(model), "pooled": classifier(model)}
    with ExitStack() as hooks:
        for name, module in heads.items():
            if module is not None:
                handle = module.register_forward_pre_hook(_keep(name, values))
                hooks.callback(handle.remove)
        yield


def _keep(name: str, values: dict[str, Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        values[name] = args[0]

    return keep
