"""Distil inside a LightningModule of your own: `python examples/lightning_module.py`."""

import lightning
import torch
import torchvision
from torch.utils.data import DataLoader, TensorDataset

import kdbench
from kdbench.data.sources.cifar100_mini import load_mini


class Distillation(lightning.LightningModule):
    """A student that learns from a teacher; both are plain torchvision networks."""

    def __init__(self, student: torch.nn.Module, teacher: torch.nn.Module, example: torch.Tensor) -> None:
        super().__init__()
        # A recipe brings cross-entropy and the published weights: here 0.1 CE + 0.9 KD at temperature 4.
        self.distiller = kdbench.Distiller(student, teacher, "kd").setup(example)

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        inputs, target = batch
        total, parts = self.distiller(inputs, target, epoch=self.current_epoch + 1)
        self.log_dict({f"train/{name}": value for name, value in parts.items()}, prog_bar=True)
        return total

    def validation_step(self, batch: list[torch.Tensor], _: int) -> None:
        inputs, target = batch
        accuracy = (self.distiller.predict(inputs).argmax(1) == target).float().mean()
        self.log("test/top1", 100 * accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # The distiller's parameters: the student's and those of the loss, never the teacher's.
        return torch.optim.AdamW(self.distiller.parameters(), lr=1e-3)


torch.manual_seed(0)
images = load_mini()
train, test = (TensorDataset(split.images / 255 - 0.5, split.labels) for split in (images.train, images.test))
student = torchvision.models.mobilenet_v3_small(num_classes=100)
teacher = torchvision.models.resnet18(num_classes=100)  # load the weights of your teacher here

module = Distillation(student, teacher, train[:2][0])
trainer = lightning.Trainer(
    max_epochs=1, limit_train_batches=10, accelerator="cpu", logger=False, enable_checkpointing=False
)
trainer.fit(module, DataLoader(train, batch_size=64, shuffle=True), DataLoader(test, batch_size=500))
print({name: round(float(value), 3) for name, value in trainer.callback_metrics.items()})
