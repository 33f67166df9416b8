"""`kdbench evaluate dataset=cifar100 model=resnet56 checkpoint=FILE`: score a checkpoint.

With `store=NAME` the network becomes a teacher in the store.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from kdbench.cli.errors import command
from kdbench.config.build import build
from kdbench.config.compose import compose_checked
from kdbench.core.class_groups import describe_groups
from kdbench.data.base import TaskData
from kdbench.models.checkpoints import weights_hash
from kdbench.models.onnx import OnnxNetwork
from kdbench.runs.checkpoint import NetworkWithHead, load_student
from kdbench.runs.hydra_setup import register
from kdbench.runs.validation import check_settings
from kdbench.tasks import Capability, task_of
from kdbench.teachers.names import network_of
from kdbench.teachers.store import WEIGHTS, check_free, put
from kdbench.training.evaluation import evaluate
from kdbench.utils.hashing import file_hash
from kdbench.utils.precision import disable_tf32
from kdbench.utils.provenance import provenance

HUB = "hub"
"""Value of `checkpoint` that selects timm's pretrained weights of a timm network."""


@command
def main(arguments: list[str]) -> int:
    """Print the scores of a checkpoint, and store it as a teacher if `store` is set."""
    arguments = ["json=true" if argument == "--json" else argument for argument in arguments]
    register()
    cfg = compose_checked("evaluate", arguments)
    check_settings(cfg)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    data: TaskData = build(cfg.dataset, seed=0, batch_size=1)
    data.setup("test")
    if cfg.split not in (splits := (*data.eval_splits, *data.final_splits)):
        raise ValueError(f"split={cfg.split}; {data.name} has {', '.join(splits)}")
    task_of(data).check_model(data, cfg.model.name)
    model, about = _load(cfg, data)
    if cfg.store:
        _check_store(cfg, model, data)
    disable_tf32()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data.to(torch.device(device))
    model = model.to(device).to(memory_format=torch.channels_last)
    scores = evaluate(model, data, cfg.split, bf16=cfg.precision != "fp32", view=about.get("input"))
    task = task_of(data)
    result = {
        "dataset": data.name,
        "split": cfg.split,
        task.unit: data.eval_size(cfg.split),
        "model": cfg.model.name,
    }
    result |= {
        "checkpoint": cfg.checkpoint,
        "precision": cfg.precision,
        task.metric: scores[task.metric],
        **{key: scores[key] for key in ("top5", "nll", "ece", *data.groups) if key in scores},
        **scores,
    }
    if cfg.store:
        training = {}
        if (metric := task.build_training_metric(data)) is not None:
            training = evaluate(model, data, "train", bf16=cfg.precision != "fp32", metric=metric)
        result["stored"] = str(_store(cfg, model, data, {**about, **training, **result}))
    top5 = f", top-5 {scores['top5']:.2f} %" if "top5" in scores else ""
    ece = f", ECE {scores['ece']:.2f} %" if "ece" in scores else ""
    if cfg.json:
        print(json.dumps(result))
    else:
        print(
            f"{result['model']} on {data.name} ({cfg.split}, {result[task.unit]} {task.unit}, {cfg.precision}): "
            f"{task.title} {scores[task.metric]:.2f} %{top5}, NLL {scores['nll']:.4f}"
            f"{ece}{describe_groups(scores)}"
        )
        if cfg.store:
            print(f"stored as the teacher {cfg.store}: {result['stored']}")
    return 0


def _load(cfg: DictConfig, data: TaskData) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network in a checkpoint or an ONNX file, and the metadata of the file."""
    if (Path(cfg.checkpoint) / WEIGHTS).is_file():  # a run's folder
        cfg.checkpoint = str(Path(cfg.checkpoint) / WEIGHTS)
    if cfg.checkpoint.endswith(".onnx"):
        return OnnxNetwork(Path(cfg.checkpoint)), {}
    task, name, options = task_of(data), cfg.model.name, cfg.model.get("options")
    if cfg.checkpoint == HUB:
        return task.load_pretrained(data, name, options), {}
    return load_student(task.build_model(data, name, options), Path(cfg.checkpoint), data)


def _check_store(cfg: DictConfig, model: nn.Module, data: TaskData) -> None:
    """Check that a network can be stored as a teacher under the given name."""
    if network_of(cfg.store) != cfg.model.name:
        raise ValueError(
            f"store={cfg.store}: a teacher is named after its network, {cfg.model.name}[@VARIANT]"
        )
    if cfg.split != "test":
        raise ValueError(
            f"store={cfg.store}: give split=test; the card of a teacher has its accuracy on test"
        )
    if reason := task_of(data).why_not(Capability.TEACHERS, data):
        raise ValueError(f"store={cfg.store}: {reason}; give store=null")
    if isinstance(model, NetworkWithHead | OnnxNetwork):
        raise ValueError(
            f"{cfg.checkpoint} is an ONNX file or answers with a head of its loss: it cannot be a teacher"
        )
    check_free(data.label_space, cfg.store, _hashes(cfg, model))


def _store(cfg: DictConfig, model: nn.Module, data: TaskData, about: Mapping[str, Any]) -> Path:
    """Put the network into the teacher store, with a card of its origin and its scores; return its folder."""
    kept = ("epoch", task_of(data).metric, "top5", "nll", "cmi")
    card = {**data.label_info, **{key: about[key] for key in kept if key in about}, "model": cfg.model.name}
    card |= {"teacher": cfg.store, "hashes": _hashes(cfg, model), **provenance()}
    card |= {"settings": settings} if (settings := getattr(model, "settings", "")) else {}
    card["imported"] = Path(cfg.checkpoint).name
    return put(model, data.label_space, cfg.store, card)


def _hashes(cfg: DictConfig, model: nn.Module) -> dict[str, str]:
    if cfg.checkpoint != HUB:
        return {"file": file_hash(Path(cfg.checkpoint))}
    return {"file": weights_hash(model) if getattr(model, "settings", "") else HUB}
