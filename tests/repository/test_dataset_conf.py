import inspect
from functools import cache
from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from kdbench.config.build import build
from kdbench.config.schema import SUPPLIED
from kdbench.config.targets import check_targets, parameters
from kdbench.data.images.image_data import ImageData
from kdbench.data.protocols.protocol import Protocol, ProtocolOptions, Subset
from kdbench.runs.hydra_setup import register
from tests.helpers.composition import compose_checked

register()

NAMES = ("cifar100", "cifar100_mini", "cifar10", "folder", "hub", "fake", "imagenet")
REQUIRED = {"folder": ("path", str(Path(__file__).parent)), "hub": ("name", "someone/pets")}


@cache
def composed(name: str) -> DictConfig:
    given = [f"dataset.{'='.join(REQUIRED[name])}"] if name in REQUIRED else []
    return OmegaConf.create(
        OmegaConf.to_container(compose_checked("train", [f"dataset={name}", *given]).dataset)
    )


def defaults(callable_) -> dict:
    return {name: parameter.default for name, parameter in inspect.signature(callable_).parameters.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_shows_every_key_with_the_default_of_the_code(name):
    """Of the function's own arguments, of those that all data sets share, and of the protocols'."""
    shown = dict(composed(name))
    factory = get_object(shown.pop("_target_"))
    assert set(shown) == set(parameters(factory)) - set(SUPPLIED["dataset"])
    expected = defaults(ImageData) | defaults(Protocol) | defaults(factory)
    if name == "imagenet":  # a view is a random part of an image, and a file is not padded
        expected["padding"] = 0
    required, _ = REQUIRED.get(name, ("", ""))
    subset = dict(shown.pop("subset"))
    assert subset.pop("_target_") == "kdbench.data.protocols.protocol.Subset"
    assert Subset(**subset) == Subset()
    for key, value in shown.items():
        if key != required:
            assert (tuple(value) if isinstance(expected[key], tuple) else value) == expected[key]
    assert not required or expected[required] is inspect.Parameter.empty


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_takes_every_option(name):
    subset = {"fraction": 0.5, "mode": "first", "repeat": True}
    options = {"omit_classes": [0], "omit": "loop", "imbalance": 2, "label_noise": 0.1, "validation": 7}
    cfg = OmegaConf.merge(composed(name), {**options, "subset": subset})
    check_targets({"dataset": OmegaConf.to_container(cfg)})
    data = build(cfg, seed=1, batch_size=64)
    assert isinstance(data, ImageData)
    assert data.validation == 7
    assert data._protocol == Protocol(Subset(0.5, "first", repeat=True), [0], "loop", 2, label_noise=0.1)


def test_the_options_are_the_protocols_arguments():
    assert parameters(Protocol) == ProtocolOptions.__annotations__


def test_all_of_them_are_there():
    folder = Path(__file__).parents[2] / "conf" / "dataset"
    files = {file.stem: file.read_text() for file in folder.glob("*.yaml")}
    of_text = ("kdbench.data.text.", "- rationale", "- language", "- instructions")
    on_images = {name for name, content in files.items() if not any(word in content for word in of_text)}
    assert on_images == {*NAMES, "images"}
