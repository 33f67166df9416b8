"""What one GPU does with resnet32x4 -> resnet8x4 at batch 64: the literature's loop, kdbench's steps, a whole row.

    python benchmarks/gpu.py                         # all parts, at most 9 minutes; the same command goes on
    python benchmarks/gpu.py --parts reference graph --minutes 4

It wants kdbench installed (pip install -e .) and CIFAR-100 (KDBENCH_DATA, or --dataset dataset.path=FOLDER). Every part
is written into gpu.json as it ends, with the device and the commit, and is not measured again on that device; the runs
of the last two, a teacher and a student of 240 epochs, are stopped with a checkpoint when the time is up. Speeds are
medians over chunks of 50 steps, each of which ends with a wait for the device; what is called fp32 is without TF32.
`--device cpu` tries the same out where there is no GPU, without graphs, into gpu-cpu.json.
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
from kdbench.data.images.image_data import ImageData
from kdbench.models.checkpoints import save_weights
from kdbench.models.registry import create_model
from kdbench.runs.hydra_setup import register
from kdbench.training.run_folder import records
from kdbench.utils.precision import disable_tf32
from kdbench.utils.provenance import provenance

HERE = Path(__file__).parent
TEACHER, STUDENT, BATCH, CHUNK = "resnet32x4", "resnet8x4", 64, 50
ROW_IMAGES = 240 * 50_000
FAST = ["precision=bf16", "cuda_graph=true"]
LOSSES = ("kd", "ttm", "wttm", "dkd", "kd_lskd", "nkd", "dist", "wsld")
"""As many recipes on logits as the largest cohort has students."""
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
"""By name, the words of the run; the last two are whole ones."""


class Session:
    """One call: its options, and the time that is left of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.deadline = options, time.monotonic() + 60 * options.minutes
        self.file: Path = options.json
        self.device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
        self.result: dict[str, Any] = {"parts": {}}
        if self.file.is_file():
            self.result = json.loads(self.file.read_text())
        if self.result.get("device", self.device) != self.device:
            sys.exit(
                f"{self.file} is of {self.result['device']}, and this is {self.device}: give another --json"
            )
        self.result |= {"device": self.device, **provenance()}

    def measure(self, name: str) -> bool:
        """One part, unless it is there; False where the time was not enough."""
        if name in self.result["parts"]:
            return True
        found = self._reference() if name == "reference" else self._run(name)
        if found is None:
            return False
        self.result["parts"][name] = {**found, "commit": self.result["commit"]}
        self.file.write_text(json.dumps(self.result, indent=1) + "\n")
        print(f"{name}: {json.dumps(found)}", flush=True)
        return True

    def _data(self) -> ImageData:
        cfg = compose_checked("train", self.options.dataset)
        data: ImageData = build(cfg.dataset, seed=0, batch_size=BATCH)
        data.setup("fit")
        return data

    def _reference(self) -> dict[str, Any]:
        """The loop as the literature runs it: worker processes, float32, three numbers read after every step."""
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
        words = [*PARTS[name], *self._common(whole), f"output={output}"]
        words.sort(key=lambda word: word not in COHORT)  # Hydra wants -m before all others
        if self.options.device == "cpu":
            words = [word for word in words if word != "cuda_graph=true"]
        command = ["train-teacher" if name == "teacher" else "train"]
        command += words
        if name != "teacher":
            command.append(f"student={STUDENT}")
            command += [] if any(word.startswith("loss=") for word in words) else ["loss=kd"]
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
        """A teacher with the weights that it begins with, whose BatchNorm has seen images: as fast as a trained one."""
        file: Path = self.options.output / f"{TEACHER}.safetensors"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            model, data = create_model(TEACHER, 100), self._data()
            update_bn([data.train_batch(1, step).inputs for step in range(4)], model)
            save_weights(model, file, {"model": TEACHER, "num_classes": 100})
        return file

    def _call(self, words: list[str]) -> bool:
        """Run kdbench; a run that takes too long is stopped with a checkpoint."""
        process = subprocess.Popen([sys.executable, "-m", "kdbench", *words])
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
        """Images a second for each student, from the lines of its metrics but for the first three."""
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
    """Measure what is not there yet, as far as the time goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--steps", type=int, default=300, help="of the reference")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--dataset", nargs="+", default=["dataset=cifar100"], help="overrides of a run")
    parser.add_argument(
        "--json", type=Path, help="gpu.json beside this program, with --device cpu gpu-cpu.json"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"))
    options = parser.parse_args()
    options.json = options.json or HERE / ("gpu.json" if options.device == "cuda" else "gpu-cpu.json")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu tries the parts out without one")
    register()
    session = Session(options)
    for name in options.parts:
        if not session.measure(name):
            print(f"the time is up in {name}: the same command goes on")
            sys.exit(75)


if __name__ == "__main__":
    main()
