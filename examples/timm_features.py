"""Distil intermediate features between two timm networks: `python examples/timm_features.py`."""

import timm
import torch

import kdbench
from kdbench.data.sources.cifar100_mini import load_mini

STEPS = 10

torch.manual_seed(0)
images = load_mini().train
inputs, labels = images.images / 255 - 0.5, images.labels

student = timm.create_model("test_resnet", num_classes=100)
teacher = timm.create_model("test_efficientnet", num_classes=100)  # pretrained=True for a real teacher

# Features are submodule paths, read by forward hooks: the shapes may differ, the objective projects them.
distiller = kdbench.Distiller(
    student,
    teacher,
    "reviewkd",
    student_features=["layer2", "layer3", "layer4"],
    teacher_features=["blocks.1", "blocks.2", "blocks.3"],
)
distiller.setup(inputs[:2])
optimizer = torch.optim.AdamW(distiller.parameters(), lr=1e-3)

for step in range(STEPS):
    rows = torch.randint(len(labels), (64,))
    total, parts = distiller(inputs[rows], labels[rows], epoch=1)
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    print(
        f"step {step}: total {total.item():.3f}",
        {name: round(value.item(), 3) for name, value in parts.items()},
    )
