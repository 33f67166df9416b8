"""`kdbench evaluate dataset=cifar100 model=resnet56 checkpoint=FILE`: the accuracy of a checkpoint."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from kdbench.config import build, register
from kdbench.data.base import TaskData
from kdbench.metrics import evaluate, in_groups
from kdbench.plan import check_settings
from kdbench.run import exact_float32
from kdbench.strict import compose_checked
from kdbench.student.stored import load_student


def main(arguments: list[str]) -> int:
    """Print top-1 and top-5 of a checkpoint; 2 for a mistake of the caller."""
    arguments = ["json=true" if argument == "--json" else argument for argument in arguments]
    try:
        register()
        cfg = compose_checked("evaluate", arguments)
        check_settings(cfg)
        if cfg.threads:
            torch.set_num_threads(cfg.threads)
        data: TaskData = build(cfg.dataset, seed=0, batch_size=1)
        data.setup("test")
        if cfg.split not in (splits := (*data.eval_splits, *data.final_splits)):
            raise ValueError(f"split={cfg.split}; {data.name} has {', '.join(splits)}")
        data.check_network(cfg.model.name)
        network: nn.Module = build(cfg.model, num_classes=data.num_classes)
        model, _ = load_student(network, Path(cfg.checkpoint), data)
    except ValueError as error:
        print(f"kdbench: {error}", file=sys.stderr)
        return 2
    exact_float32()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data.to(torch.device(device))
    model = model.to(device).to(memory_format=torch.channels_last)
    scores = evaluate(model, data, cfg.split, bf16=cfg.precision != "fp32")
    task = data.task
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
    }
    top5 = f", top-5 {scores['top5']:.2f} %" if "top5" in scores else ""
    if cfg.json:
        print(json.dumps(result))
    else:
        print(
            f"{result['model']} on {data.name} ({cfg.split}, {result[task.unit]} {task.unit}, {cfg.precision}): "
            f"{task.title} {scores[task.metric]:.2f} %{top5}, NLL {scores['nll']:.4f}, "
            f"ECE {scores['ece']:.2f} %{in_groups(scores)}"
        )
    return 0
