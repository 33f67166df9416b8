"""Do the fast settings cost accuracy? Paired runs (same seeds, so same batches) on all of CIFAR-100.

    python benchmarks/accuracy.py --settings live stored --epochs 5 --seeds 0 1 2 --jobs 2

Every run is an ordinary run with a folder of its own: the same command goes on where it was stopped. Differences are
those of the last epoch's test top-1, setting minus `live`, over the seeds, with the 95 % interval of Student's t.
What accuracy.json says of other settings stays.
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

from kdbench.training.run_folder import records
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
    """The command line of all runs of a setting; seeds are added."""
    common = ["dataset=cifar100", f"teacher={options.teacher}", f"student={options.student}"]
    common += ["schedule=quick", f"schedule.epochs={options.epochs}", f"evaluate_every={options.epochs}"]
    common += ["trainer=cpu", "threads=1", "progress=false", "resume=true"]
    return [*common, *SETTINGS[setting], f"output={options.output / setting}"]


def train(setting: str, seed: int, options: argparse.Namespace) -> int:
    """A cohort of the losses, in a process of its own."""
    words = ["-m", "hydra/launcher=cohort", f"loss={','.join(LOSSES)}", f"seed={seed}"]
    command = [sys.executable, "-m", "kdbench.cli.train", *words, *overrides(setting, options)]
    code = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
    print(f"{setting}, seed {seed}: {'done' if code == 0 else f'ended with {code}'}", flush=True)
    return code


def store(options: argparse.Namespace) -> None:
    """The teacher's answers for the views of all seeds."""
    seeds = ",".join(map(str, options.seeds))
    words = [word for word in overrides("stored", options) if not word.startswith(("resume", "threads"))]
    command = [sys.executable, "-m", "kdbench", "cache", "fill", *words, "loss=kd", f"seed={seeds}"]
    subprocess.run([*command, f"threads={options.jobs}"], check=True)


def compared(setting: str, options: argparse.Namespace) -> dict[str, dict[str, object]]:
    """By loss: the accuracies by seed of a setting and of the reference, and their mean difference."""
    found = {}
    for loss in LOSSES:
        pairs = [top1(name, loss, options) for name in (REFERENCE, setting)]
        seeds = sorted(set(pairs[0]) & set(pairs[1]))
        differences = [pairs[1][seed] - pairs[0][seed] for seed in seeds]
        spread = statistics.stdev(differences) / len(seeds) ** 0.5
        found[loss] = {
            "seeds": seeds,
            REFERENCE: [pairs[0][seed] for seed in seeds],
            setting: [pairs[1][seed] for seed in seeds],
            "difference": statistics.fmean(differences),
            "interval95": float(stats.t.ppf(0.975, len(seeds) - 1)) * spread,
        }
    return found


def top1(setting: str, loss: str, options: argparse.Namespace) -> dict[int, float]:
    """Test top-1 of the last epoch by seed, of the finished runs."""
    return {
        record["seed"]: record["results"]["last"]["top1"]
        for _, record in records(options.output / setting)
        if record["state"] == "done"
        and record["names"]["loss"] == loss
        and (record["names"]["teacher"], record["names"]["student"]) == (options.teacher, options.student)
        and record["config"]["schedule"]["epochs"] == options.epochs
    }


def main() -> None:
    """Train what is missing, and write it into accuracy.json."""
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
        parser.error(f"differences need {REFERENCE} among the settings, and two seeds")
    if "stored" in options.settings:
        store(options)
    work = [(setting, seed) for seed in options.seeds for setting in options.settings]
    with ThreadPoolExecutor(options.jobs) as pool:
        codes = list(pool.map(lambda one: train(*one, options), work))
    if any(codes):
        sys.exit(1)
    about = {
        "command": " ".join(["python", "benchmarks/accuracy.py", *sys.argv[1:]]),
        "pair": f"{options.teacher}:{options.student}",
        "epochs": options.epochs,
        **provenance(),
    }
    found = {
        name: {**about, "losses": compared(name, options)} for name in options.settings if name != REFERENCE
    }
    file = HERE / "accuracy.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**before, **found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
