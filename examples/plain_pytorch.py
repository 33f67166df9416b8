"""Use a distillation objective in a plain PyTorch loop: `python examples/plain_pytorch.py`."""

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import kdbench
from kdbench.data.sources.cifar100_mini import load_mini
from kdbench.models.registry import create_model
from kdbench.teachers.store import shipped

EPOCHS = 2

torch.manual_seed(0)
mean, std = (
    torch.tensor(values).view(3, 1, 1) for values in ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
)
images = load_mini()
train = TensorDataset((images.train.images / 255 - mean) / std, images.train.labels)
test = TensorDataset((images.test.images / 255 - mean) / std, images.test.labels)

# Any two classifiers do. This teacher comes with the package; it was trained on all of CIFAR-100.
teacher = create_model("resnet20", num_classes=100, checkpoint=shipped("cifar100", "resnet20")).eval()
student = create_model("resnet8", num_classes=100)

# Options are those of the command line; kdbench.objectives.available() describes every objective.
distillation = kdbench.objectives.create("wttm", gamma=0.2)
optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

for epoch in range(1, EPOCHS + 1):
    student.train()
    for inputs, target in DataLoader(train, batch_size=64, shuffle=True):
        with torch.no_grad():
            teacher_logits = teacher(inputs)
        student_logits = student(inputs)
        loss = F.cross_entropy(student_logits, target) + distillation(student_logits, teacher_logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    student.eval()
    with torch.no_grad():
        correct = sum((student(x).argmax(1) == y).sum().item() for x, y in DataLoader(test, batch_size=500))
    print(f"epoch {epoch}: loss {loss.item():.3f}, test top-1 {100 * correct / len(test):.1f} %")
