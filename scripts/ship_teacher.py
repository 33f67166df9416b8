"""Copy a teacher of the store into the package: float16 weights, and a card with their accuracy.

Train the teacher first:

    kdbench train-teacher dataset=cifar100 teacher=resnet20 schedule=quick schedule.epochs=15 \
        schedule.batch_size=128 schedule.lr=0.2 evaluate_every=3 threads=2
    python scripts/ship_teacher.py resnet20        # with CIFAR-100 in $KDBENCH_DATA
"""

import json
import sys

from kdbench.data.sources.cifar import cifar100
from kdbench.models.checkpoints import save_weights
from kdbench.models.registry import create_model
from kdbench.teachers.store import shipped, stored
from kdbench.training.evaluation import evaluate

CARD_KEYS = (
    "model",
    "num_classes",
    "label_space",
    "classes",
    "epoch",
    "seed",
    "hashes",
    "versions",
    "commit",
    "threads",
)


def main(name: str) -> None:
    """Convert the weights, measure their accuracy, and write both files."""
    source, target = stored("cifar100", name), shipped("cifar100", name)
    card = json.loads(source.with_suffix(".json").read_text())
    target.parent.mkdir(parents=True, exist_ok=True)
    save_weights(
        create_model(name, 100, checkpoint=str(source)).half(), target, {"model": name, "num_classes": 100}
    )
    data = cifar100(seed=0, batch_size=1)
    data.setup("test")
    rounded = evaluate(create_model(name, 100, checkpoint=str(target)), data, "test")
    content = {key: card[key] for key in CARD_KEYS} | {
        "seconds": round(card["seconds"]),
        "schedule": card["config"]["schedule"],
    }
    processor = card["machine"]["processor"]
    content |= {"processor": processor, "top1_before_rounding": card["top1"], "weights": "float16", **rounded}
    target.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")
    print(f"{target}: top-1 {rounded['top1']:.2f} % ({card['top1']:.2f} % in float32)")


if __name__ == "__main__":
    main(*sys.argv[1:])
