"""Liger-kernel's kernels, in Triton's interpreter: the values and gradients of the objectives here."""

import json
import os
import subprocess
import sys

import pytest
import torch

from kdbench.core.types import Batch, Outputs
from kdbench.objectives import create

COMPARED = """
import json, torch
from kdbench.core import Batch, Outputs
from kdbench.objectives import create
torch.manual_seed(0)
student, teacher = 3 * torch.randn(2, 9, 70)
batch = Batch(student, torch.zeros(9, dtype=torch.int64), torch.arange(9))
found = {}
for name in ("fkl", "rkl", "js"):
    sides = []
    for kernel in ("torch", "liger"):
        logits = student.clone().requires_grad_()
        value = create(name, kernel=kernel)(Outputs(logits), Outputs(teacher), batch)
        (2 * value).backward()
        sides.append((value.item(), logits.grad))
    (ours, own), (theirs, other) = sides
    found[name] = [ours, theirs, (own - other).abs().max().item(), own.abs().max().item()]
print(json.dumps(found))
"""


def test_they_compute_what_the_objectives_do():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", COMPARED], capture_output=True, text=True, env=environment, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    for ours, theirs, error, largest in found.values():
        assert theirs == pytest.approx(ours, rel=1e-5)
        assert error < 1e-5 * largest
    assert len({round(ours, 6) for ours, *_ in found.values()}) == 3


def test_a_cpu_is_refused_in_words():
    logits = torch.randn(2, 3)
    with pytest.raises(ValueError, match="its kernels are for CUDA; give kernel=torch"):
        create("js", kernel="liger")(
            Outputs(logits), Outputs(logits), Batch(logits, torch.zeros(2), torch.arange(2))
        )


def test_what_is_not_known_or_not_installed_is_said(monkeypatch):
    with pytest.raises(ValueError, match="kernel=cuda; possible: torch, liger"):
        create("fkl", kernel="cuda")
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.jsd", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[liger\]'"):
        create("rkl", kernel="liger")
