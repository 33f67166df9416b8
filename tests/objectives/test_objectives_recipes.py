"""conf/loss against the literature's tables: every row of them is a recipe, with the published numbers."""

from functools import cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from kdbench.config import resolvers
from kdbench.config.build import build
from kdbench.config.targets import check_targets
from kdbench.core.types import Batch, Outputs
from kdbench.runs.hydra_setup import register
from kdbench.utils.paths import CONF_DIR
from tests.objectives.cases import STUDENT, TARGET, TEACHER, normal

register()

SAME = (
    "wrn_40_2:wrn_16_2",
    "wrn_40_2:wrn_40_1",
    "resnet56:resnet20",
    "resnet110:resnet20",
    "resnet110:resnet32",
    "resnet32x4:resnet8x4",
    "vgg13:vgg8",
)
DIFFERENT = (
    "vgg13:MobileNetV2",
    "ResNet50:MobileNetV2",
    "ResNet50:vgg8",
    "resnet32x4:ShuffleV1",
    "resnet32x4:ShuffleV2",
    "wrn_40_2:ShuffleV1",
)
TTM = "FitNet AT VID RKD PKT CRD ITRD KD DIST DKD TTM WTTM WTTM+CRD WTTM+ITRD"
TABLES = {
    "Zheng and Yang 2024, same family": (TTM, SAME),
    "Zheng and Yang 2024, different families": (TTM, DIFFERENT),
    "RepDistiller, same family": ("KD FitNet AT SP CC VID RKD PKT AB FT FSP NST CRD", SAME),
    "RepDistiller, different families": ("KD FitNet AT SP CC VID RKD PKT AB FT NST CRD", DIFFERENT),
    "Sun et al. 2024, same family": ("KD KD+LSKD CTKD CTKD+LSKD DKD DKD+LSKD MLKD MLKD+LSKD", SAME),
}
ROWS = sorted({row for rows, _ in TABLES.values() for row in rows.split()})


def recipe(row: str) -> str:
    """`loss=` of a row: its label in small letters, which is the rule that lets people find it."""
    return row.lower().replace("+", "_")


@pytest.fixture(autouse=True, scope="module")
def _pairs_are_read_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resolvers, "pairs_of", cache(resolvers.pairs_of))
        yield


@cache
def composed(loss: str) -> DictConfig:
    """The loss and whom it asks, of a whole run's configuration (tests/test_conf.py composes those)."""
    names = {"teacher": {"name": "???"}, "student": {"name": "???"}, "dataset": {"label_space": "cifar100"}}
    ConfigStore.instance().store("loss_alone", {"defaults": ["_self_", {"loss": "ce"}], **names})
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return compose("loss_alone", overrides=[f"loss={loss}"])


def of_pair(loss: str, pair: str) -> DictConfig:
    """The loss of a run on `teacher:student`, checked."""
    cfg = composed(loss).copy()
    cfg.teacher.name, cfg.student.name = pair.split(":")
    OmegaConf.resolve(cfg)
    check_targets(OmegaConf.to_container(cfg.loss), "loss")
    return cfg.loss


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_a_recipe(row):
    """On the first and the last of its pairs; that files of pairs lack no value is tested with them."""
    pairs = [pair for rows, pairs in TABLES.values() if row in rows.split() for pair in pairs]
    for pair in (pairs[0], pairs[-1]):
        build(of_pair(recipe(row), pair))


@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        ("kd", {"ce": 0.1, "kd": 0.9}),
        ("fitnet", {"ce": 1, "fitnet": 100}),
        ("at", {"ce": 1, "at": 1000}),
        ("sp", {"ce": 1, "sp": 3000}),
        ("cc", {"ce": 1, "cc": 0.02}),
        ("vid", {"ce": 1, "vid": 1}),
        ("rkd", {"ce": 1, "rkd": 1}),
        ("pkt", {"ce": 1, "pkt": 30000}),
        ("ab", {"ce": 1}),
        ("ft", {"ce": 1, "ft": 200}),
        ("fsp", {"ce": 1}),
        ("nst", {"ce": 1, "nst": 50}),
        ("crd", {"ce": 1, "crd": 0.8}),
        ("kd_crd", {"ce": 1, "kd": 1, "crd": 0.8}),
        ("dist", {"ce": 1, "dist": 2}),
        ("ctkd", {"ce": 0.1, "ctkd": 0.9}),
        ("ctkd_lskd", {"ce": 0.1, "ctkd": 9}),
        ("mlkd", {"ce": 0.1, "mlkd": 0.9}),
        ("mlkd_lskd", {"ce": 0.1, "mlkd": 9}),
        ("ablskd", {"ce": 0.1, "ablskd": 9}),
        ("abttm", {"ce": 1, "abttm": 76}),
        ("abdkd", {"ce": 1, "abdkd": 1}),
    ],
)
def test_published_weights_that_are_the_same_on_every_pair(loss, weights):
    for pair in ("resnet56:resnet20", "wrn_40_2:ShuffleV1"):
        assert of_pair(loss, pair).weights == weights


@pytest.mark.parametrize(
    ("loss", "pair", "weights", "parameters"),
    [
        ("ttm", "wrn_40_2:wrn_40_1", {"ce": 1, "ttm": 76}, {"ttm": {"gamma": 0.1}}),
        ("ttm", "ResNet50:vgg8", {"ce": 1, "ttm": 70}, {"ttm": {"gamma": 0.1}}),
        ("wttm", "vgg13:vgg8", {"ce": 1, "wttm": 2.25}, {"wttm": {"gamma": 0.1}}),
        ("wttm", "wrn_40_2:ShuffleV1", {"ce": 1, "wttm": 3}, {"wttm": {"gamma": 0.3}}),
        ("wttm_crd", "vgg13:vgg8", {"ce": 1, "wttm": 4, "crd": 0.8}, {"wttm": {"gamma": 0.2}}),
        ("wttm_crd", "resnet56:resnet20", {"ce": 1, "wttm": 0.6, "crd": 0.8}, {"wttm": {"gamma": 0.3}}),
        ("wttm_crd", "wrn_40_2:ShuffleV1", {"ce": 1, "wttm": 0.16, "crd": 0.8}, {"wttm": {"gamma": 0.2}}),
        (
            "wttm_itrd",
            "resnet110:resnet32",
            {"ce": 1, "wttm": 0.015, "itrd": 1},
            {"wttm": {"gamma": 0.3}, "itrd": {"alpha": 1.01, "corr_weight": 2, "mi_weight": 1}},
        ),
        (
            "wttm_itrd",
            "ResNet50:MobileNetV2",
            {"ce": 1, "wttm": 0.02, "itrd": 1},
            {"wttm": {"gamma": 0.2}, "itrd": {"alpha": 1.5, "corr_weight": 2, "mi_weight": 0}},
        ),
        ("itrd", "vgg13:MobileNetV2", {"ce": 1, "itrd": 1}, {"itrd": {"alpha": 1.5, "mi_weight": 1}}),
        ("itrd", "wrn_40_2:ShuffleV1", {"ce": 1, "itrd": 1}, {"itrd": {"alpha": 1.5, "mi_weight": 0}}),
        ("itrd", "wrn_40_2:wrn_16_2", {"ce": 1, "itrd": 1}, {"itrd": {"alpha": 1.01, "mi_weight": 1}}),
        ("itrd", "wrn_40_2:vgg8", {"ce": 1, "itrd": 1}, {"itrd": {"alpha": 1.5, "mi_weight": 1}}),
        (
            "wttm_itrd",
            "wrn_40_2:vgg8",
            {"ce": 1, "wttm": 0.03, "itrd": 1},
            {"wttm": {"gamma": 0.3}, "itrd": {"alpha": 1.5, "corr_weight": 2, "mi_weight": 1}},
        ),
        ("dkd", "resnet56:resnet20", {"ce": 1, "dkd": 1}, {"dkd": {"alpha": 1, "beta": 2, "temperature": 4}}),
        ("dkd", "resnet110:resnet20", {"ce": 1, "dkd": 1}, {"dkd": {"alpha": 1, "beta": 8}}),
        ("dkd", "ResNet50:MobileNetV2", {"ce": 1, "dkd": 1}, {"dkd": {"alpha": 1, "beta": 8}}),
        ("lskd", "vgg13:vgg8", {"ce": 0.1, "lskd": 9}, {"lskd": {"temperature": 3}}),
        ("kd_lskd", "vgg13:vgg8", {"ce": 0.1, "kd": 9}, {"kd": {"temperature": 3}}),
        ("kd_lskd", "resnet110:resnet20", {"ce": 0.1, "kd": 12}, {"kd": {"temperature": 4}}),
        ("kd_lskd", "ResNet50:MobileNetV2", {"ce": 0.1, "kd": 1}, {"kd": {"temperature": 3}}),
        ("kd_lskd", "resnet20:resnet8", {"ce": 0.1, "kd": 9}, {"kd": {"temperature": 2}}),
        ("dkd_lskd", "vgg13:vgg8", {"ce": 1, "dkd": 15}, {"dkd": {"alpha": 1, "beta": 2, "temperature": 2}}),
        ("dkd_lskd", "resnet56:resnet20", {"ce": 1, "dkd": 18}, {"dkd": {"beta": 2, "temperature": 3}}),
        ("dkd_lskd", "resnet20:resnet8", {"ce": 1, "dkd": 9}, {"dkd": {"beta": 8, "temperature": 2}}),
        ("ablskd", "resnet56:resnet20", {"ce": 0.1, "ablskd": 9}, {"ablskd": {"alpha": 0.9, "beta": 0.3}}),
    ],
)
def test_published_values_of_a_pair(loss, pair, weights, parameters):
    recipe = of_pair(loss, pair)
    assert recipe.weights == weights
    for name, values in parameters.items():
        assert recipe.objectives[name].items() >= values.items()


@pytest.mark.parametrize("loss", ["dkd", "dkd_lskd", "abdkd"])
def test_the_decoupled_ones_rise_over_twenty_epochs(loss):
    assert list(composed(loss).loss.ramps.values()) == [20]


@pytest.mark.parametrize(("loss", "weight"), [("ab", {"ab": 1}), ("fsp", {"fsp": 50}), ("ft", {"ft": 1})])
def test_the_two_stage_methods_begin_with_thirty_epochs_of_their_own(loss, weight):
    stage = of_pair(loss, "resnet56:resnet20").stage
    assert (stage.epochs, dict(stage.loss.weights)) == (30, weight)


@pytest.mark.parametrize("pair", ["resnet56:resnet20", "resnet110:resnet20"])
def test_kd_of_standardised_logits_is_lskd(pair):
    """X18 at T = 2, and on random logits at both pairs' values."""
    losses = {name: build(of_pair(name, pair)) for name in ("lskd", "kd_lskd")}
    for student, teacher, target in (
        (STUDENT, TEACHER, TARGET),
        (normal(0, 6, 10), normal(1, 6, 10), torch.arange(6)),
    ):
        batch = Batch(student, target, torch.arange(len(target)))
        values = [loss(Outputs(student), Outputs(teacher), batch) for loss in losses.values()]
        torch.testing.assert_close(values[0][0], values[1][0])
        torch.testing.assert_close(values[0][1]["lskd"], values[1][1]["kd"])


def test_x18_through_the_recipe():
    loss = build(of_pair("kd_lskd", "resnet56:resnet20"))
    total, parts = loss(Outputs(STUDENT), Outputs(TEACHER), Batch(STUDENT, TARGET, torch.arange(2)))
    assert parts["kd"].item() == pytest.approx(0.065709369944, abs=1e-7)  # a loss computes in float32
    assert total.item() == pytest.approx(0.1 * 0.553411609936 + 9 * 0.065709369944, abs=1e-6)
