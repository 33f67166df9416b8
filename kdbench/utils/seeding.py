"""Every random draw as a pure function of (seed, purpose, position): no stream that workers, restarts or
neighbours could advance."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def derive(seed: int, purpose: str, *position: int | str) -> int:
    """A 63-bit seed for one purpose at one position, e.g. `derive(7, "order", epoch)`."""
    text = "/".join(map(str, (seed, purpose, *position)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *position: int | str) -> torch.Generator:
    """A CPU generator that starts at `derive(...)`."""
    return torch.Generator().manual_seed(derive(seed, purpose, *position))


@contextmanager
def drawn_from(seed: int, purpose: str, *position: int | str) -> Iterator[None]:
    """Within: torch's global CPU generator starts at `derive(...)`; afterwards it is as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, purpose, *position))
        yield


def begin_draws(seed: int, device: torch.device) -> None:
    """Let torch's own generators, of the CPU and of `device`, begin at `seed`, for dropout and its like.

    The draws are those after `torch.manual_seed(seed)`, which sees to every kind of device that torch knows, and
    takes a millisecond for it.
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
    """Logical (not arithmetic) right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014) on int64 with wrap-around."""
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def draw_integers(key: int, *coordinates: Tensor, below: int | Tensor) -> Tensor:
    """Uniform integers in [0, below), one for each element of the (broadcast) int64 coordinate tensors (and `below`).

    A counter-based draw: the result depends on the key and on each element's own coordinates alone, on any
    device. The bias of the final modulo is below 2**-40 for `below` up to a million.
    """
    state = torch.full((), _signed(key), dtype=torch.int64, device=coordinates[0].device)
    for coordinate in coordinates:
        state = _mix(state + (coordinate + 1) * _signed(0x9E3779B97F4A7C15))
    return _shift_right(state, 1) % below
