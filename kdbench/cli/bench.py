"""`kdbench bench`: compare speed with the reference loop, and measure scaling and memory."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path

from kdbench.cli.errors import command

ABOUT = """The speed of a training step: a run of kdbench in turns with a plain PyTorch loop of the literature
(benchmarks/reference.py), in one process, on the same images and threads."""

KEYS = """keys (lists with commas):
  pairs=TEACHER:STUDENT,...  settings=live-fp32,warm-cohort-bf16,...  parts=pairs,bare,lightning,memory,scale
  threads=N (of both sides)  rounds=N and seconds=S (of each setting, at least)  steps=N (of a turn)
  dataset=..., dataset.path=... (CIFAR-100 where it is at hand, else the shipped part of it)"""


@command
def main(arguments: list[str]) -> int:
    """Measure, print the results, and write them as JSON if requested."""
    # read by OpenMP when torch is loaded: threads that wait would be counted as CPU time otherwise
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("kdbench bench", description=ABOUT, epilog=KEYS, formatter_class=form)
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="see below")
    parser.add_argument("--quick", action="store_true", help="one pair and few settings, under a minute")
    parser.add_argument(
        "--json", metavar="FILE", help="write all that was measured; - for the standard output"
    )
    options = parser.parse_args(arguments)

    from kdbench.benchmark.session import Session, load_options
    from kdbench.utils.atomic_io import write_atomically

    text = sys.stderr if options.json == "-" else sys.stdout
    chosen = load_options(options.keys, options.quick)
    with redirect_stdout(io.StringIO()):  # what its runs say of themselves
        result = Session(chosen, lambda line: print(line, file=text, flush=True)).run()
    content = json.dumps({"command": " ".join(["kdbench bench", *arguments]), **result}, indent=1) + "\n"
    if options.json == "-":
        print(content, end="")
    elif options.json:
        write_atomically(Path(options.json), content.encode())
        print(f"written: {options.json}", file=text)
    return 0
