"""The command `kdbench`."""

import gc
import importlib
import os
import sys

USAGE = """kdbench: dataset x teacher x student x loss, on a schedule, with a seed

  kdbench train dataset=cifar100 teacher=resnet32x4 student=resnet8x4 loss=wttm seed=1
  kdbench train -m loss=ce,kd,wttm seed=0,1        a sweep
  kdbench train -m hparams=wttm dataset.validation=5000 ...   a search, on held-out training images
  kdbench train -m ... hydra/launcher=cohort        its runs side by side, on one teacher call per batch
  kdbench train --cfg job --resolve loss=wttm      the composed run, without running it
  kdbench train-teacher dataset=cifar100 teacher=resnet20 schedule=cifar240
  kdbench train-teacher teacher_loss=mcmi teacher.init=store schedule=mcmi20 ...
  kdbench table demo [--dry-run]                   a table: run what is missing (or say what that is), then print it
  kdbench cache fill dataset=cifar100 teacher=resnet56 loss=kd,wttm seed=0,1   its answers, computed once
  kdbench evaluate dataset=cifar100 model=resnet56 checkpoint=FILE [--json]
  kdbench export RUN_FOLDER [--onnx]               a student for others: what timm loads, a card, ONNX
  kdbench analyze RUN_FOLDER [split=train] [--json]          calibration, entropies, CMI, CKA, pictures, ...
  kdbench analyze dataset=cifar100 model=resnet56 checkpoint=FILE [against=OTHER]
  kdbench bench [--quick] [--json FILE]            the speed of a step, beside a plain loop of the literature
  kdbench report demo runs/a other-machine/runs   runs beside the published numbers: HTML, Markdown, LaTeX, CSV, Parquet
  kdbench wandb sync TABLE                         upload its offline runs to W&B (dashboard: a page that compares)
  kdbench doctor [--json]                          what is found here: devices, data, teachers, extras
  kdbench list losses|models|datasets|teachers|tables [--json|--markdown]
"""

# A run is its own process `python -m MODULE`: what Lightning repeats for further ranks must be the run itself.
RUNS = {"train": "kdbench.cli.train", "train-teacher": "kdbench.cli.train_teacher"}
COMMANDS = {
    "analyze": "kdbench.cli.analyze",
    "bench": "kdbench.cli.bench",
    "cache": "kdbench.cli.cache",
    "doctor": "kdbench.cli.doctor",
    "evaluate": "kdbench.cli.evaluate",
    "export": "kdbench.cli.export",
    "list": "kdbench.cli.list",
    "report": "kdbench.cli.report",
    "table": "kdbench.cli.table",
    "wandb": "kdbench.cli.wandb",
}


def main() -> None:
    """Hand the rest of the command line to the command it names."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        from kdbench.cli.list import groups

        print(USAGE + "\n" + groups())
        sys.exit(0 if arguments else 2)
    command, *rest = arguments
    if command == "--version":
        from importlib.metadata import version

        print(f"kdbench {version('kdbench')}")
        sys.exit(0)
    if command in ("analyze", "evaluate", "table") and {"-h", "--help"} & set(rest):
        print("\n".join(line for line in USAGE.splitlines() if line.startswith(f"  kdbench {command} ")))
        place = "experiments/NAME/grid.yaml" if command == "table" else f"conf/{command}.yaml"
        print(f"keys with their values: {place}, and kdbench --help")
        sys.exit(0)
    if command in RUNS:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", RUNS[command], *rest])
    if command in COMMANDS:
        gc.set_threshold(
            100_000
        )  # most objects of a command live to its end: looking for garbage is wasted time
        try:
            sys.exit(importlib.import_module(COMMANDS[command]).main(rest))
        except KeyboardInterrupt:
            sys.exit(130)
    print(f"kdbench: unknown command {command!r}; possible: {', '.join([*RUNS, *COMMANDS])}", file=sys.stderr)
    sys.exit(2)
