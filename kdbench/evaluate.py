"""`kdbench evaluate dataset=cifar100 model=resnet56 checkpoint=FILE`: the accuracy of a checkpoint."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from kdbench.config import build, register
from kdbench.data.module import ImageData
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
        data: ImageData = build(cfg.dataset, seed=0, batch_size=1)
        data.setup("test")
        if cfg.split not in data.eval_splits:
            raise ValueError(f"split={cfg.split}; {data.name} has {', '.join(data.eval_splits)}")
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
    result = {
        "dataset": data.name,
        "split": cfg.split,
        "images": data.eval_size(cfg.split),
        "model": cfg.model.name,
    }
    result |= {
        "checkpoint": cfg.checkpoint,
        "precision": cfg.precision,
        "top1": scores["top1"],
        **{key: scores[key] for key in ("top5", "nll", "ece", *data.groups) if key in scores},
    }
    if cfg.json:
        print(json.dumps(result))
    else:
        print(
            f"{result['model']} on {data.name} ({cfg.split}, {result['images']} images, {cfg.precision}): "
            f"top-1 {scores['top1']:.2f} %, top-5 {scores['top5']:.2f} %, NLL {scores['nll']:.4f}, "
            f"ECE {scores['ece']:.2f} %{in_groups(scores)}"
        )
    return 0
