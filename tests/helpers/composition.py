"""Configurations and recipes for tests, composed once per process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from omegaconf import DictConfig

from kdbench.config.build import build
from kdbench.config.compose import Composer
from kdbench.core.traits import tasks_of
from kdbench.losses.composite import Loss
from kdbench.runs.hydra_setup import register
from kdbench.utils.paths import CONF_DIR

register()

_composer = cache(Composer)

RECIPES = sorted({file.stem for file in (CONF_DIR / "loss").glob("*.yaml")} - {"sum"})
"""Every recipe that is complete by itself."""


def compose_checked(root: str, overrides: Sequence[str]) -> DictConfig:
    """Compose and check a run as kdbench's function of this name does, but read each file once per process.

    Every call returns a new copy.
    """
    return _composer(root)(overrides)


@cache
def recipe_loss(name: str) -> Loss:
    """Return the loss of a recipe with its defaults. It is shared: read it, but do not change it."""
    loss = build(compose_checked("train", [f"loss={name}"]).loss)
    assert isinstance(loss, Loss)
    return loss


def is_for_images(recipe: str) -> bool:
    """Whether the objectives of a recipe are for images, and it neither reads nor writes texts."""
    loss = recipe_loss(recipe)
    for_images = all("images" in tasks_of(term) for term in loss.terms.values())
    return for_images and loss.input is None and loss.policy is None
