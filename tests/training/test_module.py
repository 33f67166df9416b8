"""Lightning's loop over chunks of steps."""

import warnings

import lightning
import pytest

from kdbench.data.positions import Chunk, EvalChunk
from kdbench.data.sources.synthetic import fake
from kdbench.training.module import StudentModule


class Recorder(StudentModule):
    """A module that notes the chunks it is given and trains nothing."""

    def __init__(self, data, position, steps_per_chunk):
        lightning.LightningModule.__init__(self)
        self.automatic_optimization = False
        self.data, self.position, self.steps_per_chunk = data, position, steps_per_chunk
        self.seen = []

    def setup(self, stage): ...

    def configure_optimizers(self): ...

    def on_train_start(self): ...

    def on_train_epoch_start(self): ...

    def on_validation_epoch_end(self): ...

    def on_train_end(self): ...

    def on_train_epoch_end(self):
        self.position = self.current_epoch + 2, 0

    def training_step(self, chunk, number):
        self.seen.append(chunk)

    def validation_step(self, chunk, number, dataloader_idx=0):
        self.seen.append(chunk)


@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*configure_optimizers")
def test_lightning_passes_chunks_without_warnings(monkeypatch):
    """On machines with many cores Lightning warns about loaders without workers, also in resumed runs."""
    connector = "lightning.pytorch.trainer.connectors.data_connector.suggested_max_num_workers"
    monkeypatch.setattr(connector, lambda devices: 16)
    statistics = {"mean": [0.0] * 3, "std": [1.0] * 3}
    data = fake(seed=3, batch_size=14, size=8, padding=2, validation=8, **statistics)
    data.setup()
    module = Recorder(data, (1, 3), steps_per_chunk=2)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        num_sanity_val_steps=0,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        **options,
    )
    with warnings.catch_warnings(record=True) as caught:
        trainer.fit(module)
    expected = ("LeafSpec", "configure_optimizers")
    unexpected = [str(w.message) for w in caught if not any(word in str(w.message) for word in expected)]
    assert unexpected == []
    evaluation = [EvalChunk("validation", 0, 8), EvalChunk("test", 0, 32)]
    assert module.seen == [Chunk(1, 3, 4), *evaluation, Chunk(2, 0, 2), Chunk(2, 2, 4), *evaluation]
