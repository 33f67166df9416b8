"""Networks as ONNX files: written by torch, read by onnxruntime. Both are the extra `onnx`."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class OnnxNetwork(nn.Module):
    """A network that an ONNX file holds, run by onnxruntime on the CPU; for answers alone."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not path.is_file():
            raise ValueError(f"no checkpoint at {path}")
        runtime: Any = _package("onnxruntime")
        try:
            self._session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except (
            Exception
        ) as error:  # onnxruntime has an exception of its own for each way in which a file can be bad
            raise ValueError(f"{path} is not an ONNX network ({str(error).splitlines()[0]})") from error

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C] of images [N, 3, H, W]."""
        (logits,) = self._session.run(["logits"], {"images": images.cpu().contiguous().numpy()})
        return torch.from_numpy(logits).to(images.device)


def write_onnx(model: nn.Module, images: Tensor, path: Path) -> None:
    """A network in eval mode as an ONNX file with `images` [N, 3, H, W] and `logits` [N, C], N free.

    ValueError without the extra.
    """
    _package("onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's words on its own past
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


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"ONNX needs pip install -e '.[onnx]' ({error})") from error
