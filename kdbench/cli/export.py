"""`kdbench export RUN`: export a trained student for timm, in the layout of the Hugging Face hub, or as ONNX."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from omegaconf import OmegaConf
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from kdbench.cli.errors import command
from kdbench.config.build import build
from kdbench.core.errors import RunError
from kdbench.data.images.image_data import ImageData
from kdbench.models.checkpoints import save_weights
from kdbench.models.features import classifier
from kdbench.models.names import PREFIX
from kdbench.models.network import registered_name
from kdbench.models.onnx import OnnxNetwork, write_onnx
from kdbench.runs.checkpoint import STUDENT, NetworkWithHead, finished_record, load_student
from kdbench.runs.hydra_setup import register
from kdbench.tasks import Capability, task_of_record
from kdbench.utils.atomic_io import write_atomically

WEIGHTS, CONFIG, CARD, ONNX = "model.safetensors", "config.json", "README.md", "model.onnx"


@command
def main(arguments: Sequence[str]) -> int:
    """Export a student and print a summary."""
    parser = argparse.ArgumentParser(prog="kdbench export")
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--to", type=Path, help="where to; RUN/export")
    parser.add_argument("--onnx", action="store_true", help="also model.onnx, as it answers at test time")
    options = parser.parse_args(arguments)
    register()
    for line in export(options.run, options.to or options.run / "export", options.onnx):
        print(line)
    return 0


def export(run: Path, to: Path, onnx: bool = False) -> list[str]:
    """Export the student of a finished run, and check that the copies return its logits.

    Args:
        run: The folder of the run.
        to: The folder to write, created if missing.
        onnx: Whether to write an ONNX file too.

    Returns:
        A summary for printing, one line per entry.

    Raises:
        ValueError: The run is not finished, trained a teacher, or has a task without export; or its student predicts
            with the head of its loss, which timm cannot load, and `onnx` is false.
        RunError: A copy returns other logits than the student.
    """
    record = finished_record(run)
    config = record["config"]
    if "student" not in config:
        raise ValueError(f"{run} trained a teacher, which is in the store; a student's run can be exported")
    task = task_of_record(record)
    if reason := task.why_not(Capability.EXPORT):
        raise ValueError(f"{run}: {reason}")
    data: ImageData = build(OmegaConf.create(config["dataset"]), seed=record["seed"], batch_size=1)
    data.setup("test")
    name, options = config["student"]["name"], config["student"].get("options")
    network = task.build_model(data, name, options)
    model, _ = load_student(network, run / STUDENT, data)
    model.eval()
    if isinstance(model, NetworkWithHead) and not onnx:
        raise ValueError(
            f"{run} answers with a head of its loss, which timm does not know: kdbench export RUN --onnx"
        )
    to.mkdir(parents=True, exist_ok=True)
    inputs = data.eval_batch("test", 0, 8).inputs.contiguous()
    lines = []
    if not isinstance(model, NetworkWithHead):
        save_weights(network, to / WEIGHTS, {"classes": list(data.classes)})
        _write_config(network, name, data, to / CONFIG)
        _compare(model, timm.create_model(f"local-dir:{to}", pretrained=True), inputs, 0.0, to)
        lines.append(
            f"timm.create_model('local-dir:{to}', pretrained=True) answers as the student does, to the bit"
        )
    if onnx:
        write_onnx(model, inputs, to / ONNX)
        gap = _compare(model, OnnxNetwork(to / ONNX), inputs, 1e-3, to / ONNX)
        lines.append(f"{to / ONNX} answers within {gap:.1e} of it (logits)")
    write_atomically(to / CARD, _card(record, data, onnx).encode())
    return [*lines, f"written: {', '.join(sorted(file.name for file in to.iterdir()))} in {to}"]


def _write_config(network: nn.Module, name: str, data: ImageData, path: Path) -> None:
    """Write config.json for timm: the architecture, the class names and the preprocessing of images."""
    size = list(data.probe(1).shape[1:])
    mean, std = data.augmentation["mean"], data.augmentation["std"]
    shown = {"input_size": size, "mean": mean, "std": std, "interpolation": "bilinear", "crop_pct": data.crop}
    if registered_name(network) is None:
        save_config_for_hf(
            network, str(path), model_config={"label_names": list(data.classes)}, data_config=shown
        )
        return
    head = classifier(network)
    assert head is not None
    config = {
        "architecture": PREFIX + name,
        "num_classes": data.num_classes,
        "num_features": head.weight.shape[1],
        "label_names": list(data.classes),
        "pretrained_cfg": {**shown, "num_classes": data.num_classes},
    }
    write_atomically(path, (json.dumps(config, indent=2) + "\n").encode())


@torch.no_grad()
def _compare(model: nn.Module, copy: nn.Module, inputs: Tensor, within: float, path: Path) -> float:
    """Return the largest difference of logits on test images; RunError if it exceeds `within` of their scale."""
    ours, theirs = model(inputs), copy.eval()(inputs)
    gap = float((ours - theirs).abs().max())
    if gap > within * max(1.0, float(ours.abs().max())):
        raise RunError(f"{path} does not answer as the run's student does: its logits differ by {gap:.3g}")
    return gap


def _card(record: dict[str, Any], data: ImageData, onnx: bool) -> str:
    """Return the model card: description, scores, training, and how to load the network."""
    names, last, config = record["names"], record["results"]["last"], record["config"]
    scores = {key: last[key] for key in ("top1", "top5", "ece", "agreement") if key in last}
    teacher = record.get("teacher", {})
    front = OmegaConf.to_yaml(
        {
            "library_name": "timm",
            "pipeline_tag": "image-classification",
            "tags": ["knowledge-distillation", "kdbench", f"loss:{names['loss']}"],
            "datasets": [names["dataset"]],
            "metrics": ["accuracy"],
        }
    )
    weights = ", ".join(f"{name} {value:g}" for name, value in config["loss"]["weights"].items())
    lines = [
        f"---\n{front}---",
        f"# {names['student']} on {names['dataset']}, distilled with {names['loss']}",
        "",
    ]
    lines.append(
        f"Trained by kdbench {record['versions'].get('kdbench')} (commit {record['commit']}), seed {record['seed']}."
    )
    lines += ["", "| on the test images, at the last epoch | |", "|---|--:|"]
    lines += [f"| {name} | {value:.2f} % |" for name, value in scores.items()]
    lines += ["", f"* loss: {names['loss']} ({weights}), {record['results']['last']['epoch']} epochs"]
    if teacher:
        lines.append(f"* teacher: {teacher['name']}, {teacher['top1']:.2f} % top-1")
    lines.append(f"* what it saw of the training images: {record.get('protocol') or 'all of them'}")
    lines.append(f"* parameters at test time: {record['parameters']['at_test']:,}")
    lines += [
        "",
        "```python",
        "import timm",
        "import kdbench.models  # the CIFAR networks in timm's registry",
        "",
    ]
    lines += [
        'model = timm.create_model("hf-hub:OWNER/NAME", pretrained=True)  # or local-dir:FOLDER',
        "```",
        "",
    ]
    mean, std = data.augmentation["mean"], data.augmentation["std"]
    lines.append(
        f"Inputs: RGB in 0 to 1, minus {[round(x, 4) for x in mean]}, divided by {[round(x, 4) for x in std]}."
    )
    if onnx:
        lines.append(f"`{ONNX}` takes `images` float32 [N, 3, H, W], so prepared, and gives `logits` [N, C].")
    return "\n".join([*lines, "", "The terms of the training data apply to what was trained on them.", ""])
