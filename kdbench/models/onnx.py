"""Export of networks to ONNX files, and inference with onnxruntime (extra `onnx`)."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class OnnxNetwork(nn.Module):
    """A network from an ONNX file, run by onnxruntime on the CPU; for inference only."""

    def __init__(self, path: Path) -> None:
        """Load an ONNX file.

        Raises:
            ValueError: If the file is missing or no ONNX network, or onnxruntime is not installed.
        """
        super().__init__()
        if not path.is_file():
            raise ValueError(f"no checkpoint at {path}")
        runtime: Any = _import("onnxruntime")
        try:
            self._session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a class of its own for each kind of broken file
            raise ValueError(f"{path} is not an ONNX network ({str(error).splitlines()[0]})") from error

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, C] of images [N, 3, H, W]."""
        (logits,) = self._session.run(["logits"], {"images": images.cpu().contiguous().numpy()})
        return torch.from_numpy(logits).to(images.device)


def write_onnx(model: nn.Module, images: Tensor, path: Path) -> None:
    """Export a network to an ONNX file with input `images` [N, 3, H, W] and output `logits` [N, C], N free.

    Args:
        model: Network in eval mode.
        images: Example inputs.
        path: File to write.

    Raises:
        ValueError: If the extra `onnx` is not installed.
    """
    _import("onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the exporter itself
        torch.onnx.export(
            model,
            (images,),
            str(path),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            external_data=False,
            dynamo=True,
            verbose=False,
        )


def _import(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"ONNX needs pip install -e '.[onnx]' ({error})") from error
