"""conf/pairs: the published per-pair values, which the loss recipes read."""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from kdbench import objectives
from kdbench.config.resolvers import published_pair

CONF = Path(__file__).parents[2] / "conf"
KEYS = {
    "ttm": {"gamma", "beta"},
    "wttm": {"gamma", "beta"},
    "wttm_crd": {"gamma", "beta"},
    "wttm_itrd": {"gamma", "beta"},
    "itrd": {"alpha", "mi_weight"},
    "dkd": {"beta"},
    "abkd": {"alpha", "beta", "weight"},
    "abttm": {"gamma", "weight"},
    "ablskd": {"alpha", "beta"},
    "kd_lskd": {"temperature", "weight"},
    "dkd_lskd": {"temperature", "weight", "beta"},
    "mlkd_lskd": {"weight", "strong_ce"},
    "reviewkd": {"weight"},
    "catkd": {"weight", "resolution"},
    "wttm_no_ce": {"gamma"},
}
ALIAS = {("ttm", "beta"), ("wttm", "beta"), ("abkd", "weight"), ("abttm", "weight")}
"""Keys that are weights of the loss, not parameters of the objective."""

MAY_BE_0 = {"mi_weight"}


def load(method: str) -> dict:
    return yaml.safe_load((CONF / "pairs" / f"{method}.yaml").read_text())


def fallbacks(pairs: dict) -> dict[str, str]:
    """By kind: of one family and of different ones; a single fallback serves both."""
    chosen = pairs["fallback"]
    return chosen if isinstance(chosen, dict) else {"same": chosen, "different": chosen}


def test_every_file_is_checked_here():
    assert {file.stem for file in (CONF / "pairs").glob("*.yaml")} == set(KEYS)


@pytest.mark.parametrize("method", KEYS)
def test_every_pair_has_every_value(method):
    pairs = load(method)
    assert set(pairs) == {"source", "status", "fallback", "values"}
    assert set(fallbacks(pairs)) == {"same", "different"}
    assert set(fallbacks(pairs).values()) <= set(pairs["values"])
    for pair, values in pairs["values"].items():
        teacher, student = pair.split(":")
        assert teacher != student
        assert set(values) == KEYS[method]
        assert all(value > 0 or (value == 0 and key in MAY_BE_0) for key, value in values.items())


def test_mlkds_two_cross_entropies_have_one_weight():
    for values in load("mlkd_lskd")["values"].values():
        assert values["weight"] * values["strong_ce"] == pytest.approx(0.1)


@pytest.mark.parametrize("method", ["ttm", "wttm", "abkd", "abttm", "ablskd"])
def test_the_objectives_numbers_are_those_of_the_fallback(method):
    """The defaults of an objective are those of the published pair that other pairs of one family use."""
    pairs, objective = load(method), objectives.configurations()[method]
    for key, value in pairs["values"][fallbacks(pairs)["same"]].items():
        assert (method, key) in ALIAS or objective[key] == value


@pytest.mark.parametrize(
    ("method", "pair", "values"),
    [
        ("ttm", "wrn_40_2:wrn_16_2", {"gamma": 0.1, "beta": 101}),
        ("ttm", "resnet32x4:ShuffleV2", {"gamma": 0.4, "beta": 40}),
        ("wttm", "vgg13:vgg8", {"gamma": 0.1, "beta": 2.25}),
        ("wttm", "resnet32x4:ShuffleV1", {"gamma": 0.2, "beta": 1.4}),
        ("dkd", "vgg13:vgg8", {"beta": 6}),
        ("abkd", "resnet56:resnet20", {"alpha": 0.8, "beta": 0.3, "weight": 32}),
        ("abttm", "wrn_40_2:wrn_40_1", {"gamma": 0.1, "weight": 76}),
        ("ablskd", "resnet56:resnet20", {"alpha": 0.9, "beta": 0.3}),
        ("wttm_crd", "wrn_40_2:ShuffleV1", {"gamma": 0.2, "beta": 0.16}),
        ("wttm_crd", "vgg13:vgg8", {"gamma": 0.2, "beta": 4}),
        ("wttm_itrd", "wrn_40_2:wrn_40_1", {"gamma": 0.4, "beta": 0.08}),
        ("wttm_itrd", "ResNet50:MobileNetV2", {"gamma": 0.2, "beta": 0.02}),
        ("itrd", "resnet110:resnet32", {"alpha": 1.01, "mi_weight": 1}),
        ("itrd", "ResNet50:vgg8", {"alpha": 1.5, "mi_weight": 0}),
        ("kd_lskd", "resnet110:resnet20", {"temperature": 4, "weight": 12}),
        ("dkd_lskd", "resnet56:resnet20", {"temperature": 3, "weight": 18, "beta": 2}),
        ("reviewkd", "resnet32x4:ShuffleV2", {"weight": 8}),
        ("catkd", "resnet32x4:ShuffleV1", {"weight": 600, "resolution": 4}),
        ("catkd", "resnet56:resnet20", {"weight": 0.7, "resolution": 2}),
    ],
)
def test_published_values(method, pair, values):
    assert load(method)["values"][pair] == values


PAIRS_OF_ZHENG_AND_YANG = {
    "wrn_40_2:wrn_16_2", "wrn_40_2:wrn_40_1", "resnet56:resnet20", "resnet110:resnet20", "resnet110:resnet32",
    "resnet32x4:resnet8x4", "vgg13:vgg8", "vgg13:MobileNetV2", "ResNet50:MobileNetV2", "ResNet50:vgg8",
    "resnet32x4:ShuffleV1", "resnet32x4:ShuffleV2", "wrn_40_2:ShuffleV1",
}  # fmt: skip


@pytest.mark.parametrize("method", ["ttm", "wttm", "wttm_crd", "wttm_itrd", "itrd"])
def test_both_tables_of_the_paper_are_complete(method):
    of_cifar = {pair for pair in load(method)["values"] if not pair.startswith("timm/")}
    assert of_cifar == PAIRS_OF_ZHENG_AND_YANG


@pytest.mark.parametrize("method", ["kd_lskd", "dkd_lskd"])
def test_both_tables_of_logit_standardisation_are_complete(method):
    assert len(load(method)["values"]) == 7 + 7


def test_itrds_alpha_is_larger_across_families():
    for pair, values in load("itrd")["values"].items():
        teacher, student = (name[:3] for name in pair.split(":"))  # wrn, res, Res, vgg, Mob, Shu
        assert values["alpha"] == (1.01 if teacher == student else 1.5)


@pytest.mark.parametrize("method", [*sorted(KEYS)])
def test_a_fallback_per_kind_of_pair_is_of_that_kind(method):
    chosen = load(method)["fallback"]
    if isinstance(chosen, dict):
        for kind, pair in chosen.items():
            teacher, student = (name[:3].lower() for name in pair.split(":"))
            assert (teacher == student) == (kind == "same")


@pytest.mark.parametrize(
    ("method", "pair", "taken"),
    [
        ("dkd", "resnet110:resnet20", "resnet32x4:resnet8x4"),
        ("dkd", "vgg13:ShuffleV2", "resnet32x4:resnet8x4"),
        ("dkd", "vgg13:MobileNetV2", "vgg13:MobileNetV2"),
        ("itrd", "resnet32x4:resnet20", "resnet56:resnet20"),
        ("itrd", "ResNet50:resnet8x4", "resnet56:resnet20"),
        ("itrd", "wrn_40_2:wrn_16_1", "resnet56:resnet20"),
        ("itrd", "resnet32x4:wrn_16_2", "vgg13:MobileNetV2"),
        ("itrd", "ShuffleV2:ShuffleV1", "resnet56:resnet20"),
        ("itrd", "MobileNetV2:ShuffleV1", "vgg13:MobileNetV2"),
        ("wttm_itrd", "wrn_40_2:vgg8", "vgg13:MobileNetV2"),
        ("mlkd_lskd", "resnet32x4:ShuffleV1", "resnet32x4:resnet8x4"),
    ],
)
def test_an_unpublished_pair_takes_the_fallback_of_its_kind(method, pair, taken):
    teacher, student = pair.split(":")
    networks = OmegaConf.create({"teacher": {"name": teacher}, "student": {"name": student}})
    assert published_pair(method, _root_=networks) == taken
