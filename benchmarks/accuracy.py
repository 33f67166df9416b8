"""Measure whether fast settings cost accuracy, in paired runs on all of CIFAR-100 with equal seeds and batches.

    python benchmarks/accuracy.py --settings live stored --epochs 5 --seeds 0 1 2 --jobs 2

Every run is an ordinary run with its own folder, so the same command continues where it was stopped. Differences are
those of the test top-1 at the last epoch, setting minus `live`, over the seeds, with the 95 % interval of Student's t.
Results of other settings in accuracy.json are kept.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scipy import stats

from kdbench.core.records import records
from kdbench.utils.provenance import provenance

HERE = Path(__file__).parent
REFERENCE = "live"
SETTINGS = {
    REFERENCE: ["teacher.cache=off"],
    "stored": ["teacher.cache=require"],
    "bf16-teacher": ["teacher.cache=off", "precision=bf16-teacher"],
    "bf16": ["teacher.cache=off", "precision=bf16"],
}
LOSSES = ("kd", "wttm")


def overrides(setting: str, options: argparse.Namespace) -> list[str]:
    """Return the overrides that all runs of a setting share."""
    common = ["dataset=cifar100", f"teacher={options.teacher}", f"student={options.student}"]
    common += ["schedule=quick", f"schedule.epochs={options.epochs}", f"evaluate_every={options.epochs}"]
    common += ["trainer=cpu", "threads=1", "progress=false", "resume=true"]
    return [*common, *SETTINGS[setting], f"output={options.output / setting}"]


def train(setting: str, seed: int, options: argparse.Namespace) -> int:
    """Train all losses as one cohort in a process of its own; return its exit code."""
    sweep = ["-m", "hydra/launcher=cohort", f"loss={','.join(LOSSES)}", f"seed={seed}"]
    command = [sys.executable, "-m", "kdbench.cli.train", *sweep, *overrides(setting, options)]
    code = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
    print(f"{setting}, seed {seed}: {'done' if code == 0 else f'exit code {code}'}", flush=True)
    return code


def fill_cache(options: argparse.Namespace) -> None:
    """Store the teacher's outputs for the views of all seeds."""
    seeds = ",".join(map(str, options.seeds))
    common = [one for one in overrides("stored", options) if not one.startswith(("resume", "threads"))]
    command = [sys.executable, "-m", "kdbench", "cache", "fill", *common, "loss=kd", f"seed={seeds}"]
    subprocess.run([*command, f"threads={options.jobs}"], check=True)


def compare(setting: str, options: argparse.Namespace) -> dict[str, dict[str, object]]:
    """Return, by loss, the accuracies of a setting and of the reference by seed, and their mean difference."""
    results = {}
    for loss in LOSSES:
        pairs = [top1(name, loss, options) for name in (REFERENCE, setting)]
        seeds = sorted(set(pairs[0]) & set(pairs[1]))
        differences = [pairs[1][seed] - pairs[0][seed] for seed in seeds]
        spread = statistics.stdev(differences) / len(seeds) ** 0.5
        results[loss] = {
            "seeds": seeds,
            REFERENCE: [pairs[0][seed] for seed in seeds],
            setting: [pairs[1][seed] for seed in seeds],
            "difference": statistics.fmean(differences),
            "interval95": float(stats.t.ppf(0.975, len(seeds) - 1)) * spread,
        }
    return results


def top1(setting: str, loss: str, options: argparse.Namespace) -> dict[int, float]:
    """Return the test top-1 of the last epoch by seed, for finished runs."""
    return {
        record["seed"]: record["results"]["last"]["top1"]
        for _, record in records(options.output / setting)
        if record["state"] == "done"
        and record["names"]["loss"] == loss
        and (record["names"]["teacher"], record["names"]["student"]) == (options.teacher, options.student)
        and record["config"]["schedule"]["epochs"] == options.epochs
    }


def main() -> None:
    """Run what is missing, and write the results into accuracy.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=[REFERENCE, "stored"])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("runs/accuracy"))
    options = parser.parse_args()
    if REFERENCE not in options.settings or len(options.seeds) < 2:
        parser.error(f"--settings, --seeds: a difference needs {REFERENCE} among the settings, and two seeds")
    if "stored" in options.settings:
        fill_cache(options)
    jobs = [(setting, seed) for seed in options.seeds for setting in options.settings]
    with ThreadPoolExecutor(options.jobs) as pool:
        codes = list(pool.map(lambda one: train(*one, options), jobs))
    if any(codes):
        sys.exit(1)
    about = {
        "command": " ".join(["python", "benchmarks/accuracy.py", *sys.argv[1:]]),
        "pair": f"{options.teacher}:{options.student}",
        "epochs": options.epochs,
        **provenance(),
    }
    results = {
        name: {**about, "losses": compare(name, options)} for name in options.settings if name != REFERENCE
    }
    file = HERE / "accuracy.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**before, **results}, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
