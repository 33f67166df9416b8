"""Train a small sweep from Python and read it into pandas: `python examples/sweep_to_pandas.py [FOLDER]`."""

import sys

import kdbench

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "runs/example"

for loss in ("ce", "kd", "wttm"):
    for seed in (0, 1):
        # The options of `kdbench train`. A run that is finished already is returned at once.
        run = kdbench.train(
            dataset="cifar100_mini",
            teacher="resnet20",
            student="resnet8",
            loss=loss,
            seed=seed,
            schedule="quick",
            output=FOLDER,
            progress=False,
            **{"schedule.epochs": 1},
        )

frame = kdbench.report(FOLDER)  # one row per run
print(frame[["loss", "seed", "last_top1", "last_agreement", "seconds"]])
print(frame.groupby("loss")["last_top1"].agg(["mean", "std", "count"]))

student = kdbench.load(run.folder)  # the last student, in eval mode
print(f"{sum(parameter.numel() for parameter in student.parameters()):,} parameters in {run.folder.name}")
