"""Eigen-CAM (Muhammad and Yeasin 2020, arXiv:2008.00299) with the library grad-cam of the extra `cam`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.analysis.networks import Side

INSTALL_HINT = "Eigen-CAM needs the library grad-cam: pip install -e '.[cam]'"
MAP = "unpooled"


def available() -> bool:
    """Return whether grad-cam is installed."""
    return find_spec("pytorch_grad_cam") is not None


class _Mapped(nn.Module):
    """A network as grad-cam expects it: a module with a layer whose output is the feature map."""

    def __init__(self, side: Side) -> None:
        super().__init__()
        self.module, self.side = side.module, side
        self.layer = nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.side.answer_images(inputs, (MAP,))
        self.layer(outputs.features[MAP])
        return outputs.logits


def eigen_cam(side: Side, inputs: Tensor) -> Tensor:
    """Return the first principal component of the last feature map's channels.

    The sign of a component is arbitrary. It is chosen so that the largest absolute value is positive.

    Args:
        side: The network.
        inputs: Images [N, 3, H, W].

    Returns:
        Maps [N, H, W] in 0 to 1, scaled per image and enlarged to its size.

    Raises:
        ValueError: The network does not average a feature map before its classifier.
    """
    from pytorch_grad_cam import EigenCAM
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_with_sign_correction

    if MAP not in side.features:
        raise ValueError(f"{side.title} does not average a feature map before its classifier: no Eigen-CAM")

    class SignedEigenCAM(EigenCAM):  # type: ignore[misc]
        def get_cam_image(self, *arguments: Any, **_: Any) -> Any:
            return get_2d_projection_with_sign_correction(arguments[3])

    mapped = _Mapped(side)
    with SignedEigenCAM(mapped, [mapped.layer]) as cam:
        return torch.from_numpy(cam(inputs, targets=None))
