"""Measure resnet32x4 -> resnet8x4 at batch 64 on one GPU: the loop of the literature, kdbench's steps, a whole run.

    python benchmarks/gpu.py                         # all parts, at most 9 minutes; repeat the command to continue
    python benchmarks/gpu.py --parts reference graph --minutes 4

kdbench must be installed (pip install -e .), and CIFAR-100 be found (KDBENCH_DATA, or --dataset dataset.path=FOLDER).
Each part is written into gpu.json when it ends, with device and commit, and is not measured again on that device. The
last two parts, a teacher and a student trained for 240 epochs, stop with a checkpoint when the time is up. Speeds are
medians over chunks of 50 steps, each of which ends with a synchronisation; fp32 means without TF32. `--device cpu`
tries everything out without a GPU and without graphs, and writes gpu-cpu.json.
"""

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import reference
import torch
from torch.optim.swa_utils import update_bn

from kdbench.config.build import build
from kdbench.config.compose import compose_checked
from kdbench.core.records import records
from kdbench.data.images.image_data import ImageData
from kdbench.models.checkpoints import save_weights
from kdbench.models.registry import create_model
from kdbench.runs.hydra_setup import register
from kdbench.utils.precision import disable_tf32
from kdbench.utils.provenance import provenance

HERE = Path(__file__).parent
TEACHER, STUDENT, BATCH, CHUNK = "resnet32x4", "resnet8x4", 64, 50
ROW_IMAGES = 240 * 50_000
FAST = ["precision=bf16", "cuda_graph=true"]
LOSSES = ("kd", "ttm", "wttm", "dkd", "kd_lskd", "nkd", "dist", "wsld")
"""Logit losses, as many as the largest cohort has students."""
COHORT = ["-m", "hydra/launcher=cohort"]

PARTS: dict[str, list[str]] = {
    "reference": [],
    "eager": ["precision=bf16"],
    "eager-fp32": ["precision=fp32"],
    "graph": FAST,
    "graph-fp32": ["precision=fp32", "cuda_graph=true"],
    "cohort-4": [*FAST, *COHORT, f"loss={','.join(LOSSES[:4])}"],
    "cohort-8": [*FAST, *COHORT, f"loss={','.join(LOSSES)}"],
    "teacher": FAST,
    "row": FAST,
}
"""The overrides of each part; the last two are whole runs."""


class Session:
    """One invocation: its options, its results, and the time that is left."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.deadline = options, time.monotonic() + 60 * options.minutes
        self.file: Path = options.json
        self.device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
        self.result: dict[str, Any] = {"parts": {}}
        if self.file.is_file():
            self.result = json.loads(self.file.read_text())
        if self.result.get("device", self.device) != self.device:
            sys.exit(
                f"{self.file} has results of {self.result['device']}, this is {self.device}; pass another --json"
            )
        self.result |= {"device": self.device, **provenance()}

    def measure(self, name: str) -> bool:
        """Measure a part unless it is done; return False where the time ran out."""
        if name in self.result["parts"]:
            return True
        measured = self._reference() if name == "reference" else self._run(name)
        if measured is None:
            return False
        self.result["parts"][name] = {**measured, "commit": self.result["commit"]}
        self.file.write_text(json.dumps(self.result, indent=1) + "\n")
        print(f"{name}: {json.dumps(measured)}", flush=True)
        return True

    def _data(self) -> ImageData:
        cfg = compose_checked("train", self.options.dataset)
        data: ImageData = build(cfg.dataset, seed=0, batch_size=BATCH)
        data.setup("fit")
        return data

    def _reference(self) -> dict[str, Any]:
        """Measure the loop of the literature: worker processes, float32, three numbers read after every step."""
        data = self._data()
        images = np.ascontiguousarray(data.train_images.permute(0, 2, 3, 1).numpy())
        labels, device = data.dataset_info.labels.tolist(), torch.device(self.options.device)
        workers = min(8, os.cpu_count() or 1)
        mean, std = (data.augmentation[key] for key in ("mean", "std"))
        loader = reference.make_loader(images, labels, mean, std, BATCH, workers)
        teacher, student = (reference.NETWORKS[name](100).to(device) for name in (TEACHER, STUDENT))
        disable_tf32()
        loop = reference.train(loader, teacher, student, device=device)
        chunk, speeds = min(CHUNK, self.options.steps), []
        for _ in range(max(2, self.options.steps // chunk)):
            started = time.perf_counter()
            images_shown = sum(rows for rows, _ in itertools.islice(loop, chunk))
            speeds.append(images_shown / (time.perf_counter() - started))
        return _speed(statistics.median(speeds[1:]), workers=workers)

    def _run(self, name: str) -> dict[str, Any] | None:
        output = self.options.output / name
        whole = name in ("teacher", "row")
        arguments = [*PARTS[name], *self._common(whole), f"output={output}"]
        arguments.sort(key=lambda argument: argument not in COHORT)  # Hydra expects -m first
        if self.options.device == "cpu":
            arguments = [argument for argument in arguments if argument != "cuda_graph=true"]
        command = ["train-teacher" if name == "teacher" else "train"]
        command += arguments
        if name != "teacher":
            command.append(f"student={STUDENT}")
            command += [] if any(argument.startswith("loss=") for argument in arguments) else ["loss=kd"]
        if not whole:
            command.append(f"teacher.checkpoint={self._untrained()}")
        if not self._call(command):
            return None
        return self._whole(output) if whole else self._chunks(output)

    def _common(self, whole: bool) -> list[str]:
        common = [
            *self.options.dataset,
            f"teacher={TEACHER}",
            "schedule=cifar240",
            f"schedule.batch_size={BATCH}",
        ]
        common += ["progress=false", "resume=true", f"log_every={CHUNK}", "trainer=cpu"]
        if self.options.device == "cuda":
            common[-1] = "trainer=auto"
        if whole:
            return [*common, "evaluate_every=20"]
        return [*common, "trainer.max_epochs=1"]

    def _untrained(self) -> Path:
        """Return the file of an untrained teacher with BatchNorm statistics of real images: as fast as trained."""
        file: Path = self.options.output / f"{TEACHER}.safetensors"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            model, data = create_model(TEACHER, 100), self._data()
            update_bn([data.train_batch(1, step).inputs for step in range(4)], model)
            save_weights(model, file, {"model": TEACHER, "num_classes": 100})
        return file

    def _call(self, arguments: list[str]) -> bool:
        """Run kdbench; at the deadline stop it with a checkpoint and return False."""
        process = subprocess.Popen([sys.executable, "-m", "kdbench", *arguments])
        try:
            code = process.wait(timeout=max(1.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.wait()
            return False
        if code:
            sys.exit(code)
        return True

    def _chunks(self, output: Path) -> dict[str, Any]:
        """Return the images per second of each student, from its metrics without the first three chunks."""
        speeds = []
        for folder, _ in records(output):
            rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            own = [row["images_per_second"] for row in rows if "images_per_second" in row]
            speeds.append(statistics.median(own[min(3, len(own) - 1) :]))
        return _speed(statistics.fmean(speeds), students=len(speeds))

    def _whole(self, output: Path) -> dict[str, Any]:
        (record,) = (record for _, record in records(output))
        return {
            "training_minutes": record["seconds"] / 60,
            "sessions": 1 + len(record.get("sessions", [])),
            "last": record["results"]["last"],
        }


def _speed(images_per_second: float, **more: Any) -> dict[str, Any]:
    return {
        "images_per_second": images_per_second,
        "minutes_a_row": ROW_IMAGES / images_per_second / 60,
        **more,
    }


def main() -> None:
    """Measure the parts that are missing, until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--steps", type=int, default=300, help="steps of the reference")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--dataset", nargs="+", default=["dataset=cifar100"], help="overrides that choose the data"
    )
    parser.add_argument(
        "--json",
        type=Path,
        help="default: gpu.json in the folder of this program, gpu-cpu.json with --device cpu",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"))
    options = parser.parse_args()
    options.json = options.json or HERE / ("gpu.json" if options.device == "cuda" else "gpu-cpu.json")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(
            "--device=cuda: torch finds no CUDA device; pass --device cpu to try the parts out without one"
        )
    register()
    session = Session(options)
    for name in options.parts:
        if not session.measure(name):
            print(f"time is up in {name}; repeat the command to continue")
            sys.exit(75)


if __name__ == "__main__":
    main()
