"""Stateless random numbers: every draw is a function of (seed, purpose, position).

No shared stream exists that workers, restarts or other draws could advance.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def derive(seed: int, purpose: str, *position: int | str) -> int:
    """Return a 63-bit seed for one purpose at one position, e.g. `derive(7, "order", epoch)`.

    Args:
        seed: Seed of the run.
        purpose: Name of the kind of draw.
        *position: Where the draw happens, e.g. epoch and step.
    """
    text = "/".join(map(str, (seed, purpose, *position)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *position: int | str) -> torch.Generator:
    """Return a CPU generator seeded with `derive(seed, purpose, *position)`."""
    return torch.Generator().manual_seed(derive(seed, purpose, *position))


@contextmanager
def seed_scope(seed: int, purpose: str, *position: int | str) -> Iterator[None]:
    """Seed torch's global CPU generator with `derive(...)` in a `with` block; restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, purpose, *position))
        yield


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of `device`, which dropout and the like draw from.

    The draws equal those after `torch.manual_seed(seed)`, which takes a millisecond because it seeds every
    kind of device that torch knows.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type != "cpu":
        torch.manual_seed(seed)


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift int64 to the right logically (not arithmetically)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """Apply the finaliser of SplitMix64 (Steele, Lea, Flood 2014) to int64 with wrap-around."""
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def draw_integers(key: int, *coordinates: Tensor, below: int | Tensor) -> Tensor:
    """Draw uniform integers in [0, below), one for each element of the broadcast coordinates.

    The draw is counter-based: a result depends on the key and the element's own coordinates alone, on any
    device. The bias of the final modulo is below 2**-40 for `below` up to a million.

    Args:
        key: Seed, e.g. from `derive`.
        *coordinates: int64 tensors of broadcastable shapes.
        below: Exclusive upper bound; a tensor is broadcast with the coordinates.

    Returns:
        int64, of the broadcast shape.
    """
    state = torch.full((), _signed(key), dtype=torch.int64, device=coordinates[0].device)
    for coordinate in coordinates:
        state = _mix(state + (coordinate + 1) * _signed(0x9E3779B97F4A7C15))
    return _shift_right(state, 1) % below
