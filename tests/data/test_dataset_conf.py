import inspect
from pathlib import Path

import pytest
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from kdbench.data.module import ImageData

FILES = sorted((Path(__file__).parents[2] / "conf" / "dataset").glob("*.yaml"))
MINE = [file for file in FILES if file.stem in {"cifar100", "cifar100_mini", "folder", "hub", "fake"}]


@pytest.mark.parametrize("file", MINE, ids=lambda file: file.stem)
def test_a_yaml_shows_every_key_with_the_default_of_the_code(file):
    cfg = OmegaConf.load(file)
    shown = {key: None if OmegaConf.is_missing(cfg, key) else cfg[key] for key in cfg if key != "_target_"}
    parameters = inspect.signature(get_object(cfg._target_)).parameters
    assert set(shown) == set(parameters) - {"seed", "batch_size"}
    for key, value in shown.items():
        default = parameters[key].default
        if OmegaConf.is_missing(cfg, key):
            assert default is inspect.Parameter.empty
        else:
            assert (tuple(value) if OmegaConf.is_list(value) else value) == default


@pytest.mark.parametrize("file", MINE, ids=lambda file: file.stem)
def test_a_yaml_builds(file, tmp_path):
    given = {"folder": {"path": str(tmp_path)}, "hub": {"name": "someone/pets"}}.get(file.stem, {})
    cfg = OmegaConf.merge(OmegaConf.load(file), given)
    assert isinstance(instantiate(cfg, seed=1, batch_size=64, _convert_="all"), ImageData)


def test_all_of_them_are_there():
    assert len(MINE) == 5
