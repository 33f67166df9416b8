"""Eigen-CAM (Muhammad and Yeasin 2020, arXiv:2008.00299) by the library grad-cam, which the extra `cam` brings."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.analysis.networks import Side

HOW_TO_GET_IT = "Eigen-CAM needs the library grad-cam: pip install -e '.[cam]'"
MAP = "unpooled"


def available() -> bool:
    """Whether the library is installed."""
    return find_spec("pytorch_grad_cam") is not None


class _Mapped(nn.Module):
    """A side as the library wants it: a module with a layer whose output is the map to be looked at."""

    def __init__(self, side: Side) -> None:
        super().__init__()
        self.module, self.side = side.module, side
        self.layer = nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.side.answer_images(inputs, (MAP,))
        self.layer(outputs.features[MAP])
        return outputs.logits


def eigen_cam(side: Side, inputs: Tensor) -> Tensor:
    """The first principal component of the last map's channels, over positions: [N, 3, H, W] -> [N, H, W] in 0 to 1.

    Scaled per image, and enlarged to its size. A component's sign is free: it is chosen so that its largest value
    is positive (the library leaves it as it falls). ValueError where the network averages no map.
    """
    from pytorch_grad_cam import EigenCAM
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_with_sign_correction

    if MAP not in side.features:
        raise ValueError(f"{side.title} averages no map before its classifier: no Eigen-CAM")

    class SignedEigenCAM(EigenCAM):  # type: ignore[misc]
        def get_cam_image(self, *arguments: Any, **_: Any) -> Any:
            return get_2d_projection_with_sign_correction(arguments[3])

    mapped = _Mapped(side)
    with SignedEigenCAM(mapped, [mapped.layer]) as cam:
        return torch.from_numpy(cam(inputs, targets=None))
