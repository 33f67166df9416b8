"""Causal language models that write: word by word, side by side, with a memory of what they have read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.core.types import IGNORED, Tokens
from kdbench.models.language.causal_lm import CausalLM


@torch.no_grad()
def write(
    networks: Sequence[nn.Module | None],
    given: Sequence[Sequence[int]],
    end: int,
    chances: Tensor,
    temperature: float = 1.0,
    top_k: int = 25,
) -> list[list[int]]:
    """What follows each of B sequences of ids: at most T words, of which `end` is the last one that counts.

    networks: one, or two of which the first proposes each word and the last replaces, by a draw of its own, one that
    is not among its `top_k` likeliest; in eval mode while they write. chances: float64 [B, T, number of networks] in
    [0, 1), where in its distribution each word lies, so that what is written to a text depends on no other;
    temperature: of the distributions, 0 takes the likeliest word.
    """
    with _answering(networks) as writers:
        ids, mask = _side_by_side(given, end, writers[0])
        device = ids.device
        done = torch.zeros(len(given), dtype=torch.bool, device=device)
        memories: list[Any] = [None] * len(writers)
        words: list[Tensor] = []
        chances = chances.to(device)
        while len(words) < chances.shape[1] and not bool(done.all()):
            logits = []
            for place, network in enumerate(writers):
                answer, memories[place] = network.next_word(ids, mask, memories[place])
                logits.append(answer)
            chance = chances[:, len(words)]
            word = _drawn(logits[0], chance[:, 0], temperature)
            if len(writers) > 1:
                top = logits[1].topk(min(top_k, logits[1].shape[-1])).indices
                accepted = (top == word[:, None]).any(dim=1)
                word = torch.where(accepted, word, _drawn(logits[1], chance[:, 1], temperature))
            words.append(torch.where(done, end, word))
            done = done | (words[-1] == end)
            ids, mask = words[-1][:, None], torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return [_until(row, end) for row in torch.stack(words, dim=1).tolist()]


@torch.no_grad()
def search(
    network: nn.Module | None, given: Sequence[Sequence[int]], end: int, longest: int, beams: int
) -> list[list[int]]:
    """The likeliest of what a beam finds to follow each of B sequences of ids: at most `longest` words, to the first
    `end`. At each word the `beams` likeliest continuations of those before are kept, by the sum of log-probabilities;
    what has ended stays among them.
    """
    with _answering([network]) as (writer,):
        ids, mask = (whole.repeat_interleave(beams, dim=0) for whole in _side_by_side(given, end, writer))
        scores = ids.new_full((len(given), beams), -torch.inf, dtype=torch.float64)
        scores[:, 0] = 0.0  # at first all are the same
        words = ids.new_zeros(len(given) * beams, 0)
        first = torch.arange(len(given), device=ids.device)[:, None] * beams
        done, memory = torch.zeros(len(ids), dtype=torch.bool, device=ids.device), None
        while words.shape[1] < longest and not bool(done.all()):
            logits, memory = writer.next_word(ids, mask, memory)
            further = logits.double().log_softmax(dim=-1)
            further[done] = -torch.inf
            further[done, end] = 0.0
            choices = further.shape[-1]
            scores, found = (scores[..., None] + further.view(*scores.shape, choices)).flatten(1).topk(beams)
            kept = (first + found // choices).flatten()
            memory.reorder_cache(kept)
            ids = (found % choices).view(-1, 1)
            words = torch.cat([words[kept], ids], dim=1)
            done, mask = done[kept] | (ids[:, 0] == end), torch.cat([mask, torch.ones_like(ids)], dim=1)
        best = (first[:, 0] + scores.argmax(dim=1)).tolist()
    return [_until(words[row].tolist(), end) for row in best]


def _side_by_side(given: Sequence[Sequence[int]], filler: int, writer: CausalLM) -> tuple[Tensor, Tensor]:
    """Sequences padded at the left, and a mask of what is no padding: int64 [B, L]."""
    device, width = next(writer.parameters()).device, max(map(len, given))
    ids = torch.tensor([[filler] * (width - len(row)) + list(row) for row in given], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in given], device=device)
    return ids, mask


def _drawn(logits: Tensor, chance: Tensor, temperature: float) -> Tensor:
    """The word of each row [B] at which its distribution comes to `chance` [B]."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    reached = (logits.double() / temperature).softmax(dim=-1).cumsum(dim=-1)
    word = torch.searchsorted(reached, (chance * reached[:, -1])[:, None], right=True)[:, 0]
    return word.clamp(max=logits.shape[-1] - 1)


@contextmanager
def _answering(networks: Sequence[nn.Module | None]) -> Iterator[list[CausalLM]]:
    """The language models in eval mode."""
    writers = [network for network in networks if isinstance(network, CausalLM)]
    if len(writers) < len(networks):
        raise ValueError("only the causal language models of kdbench write")
    training = [writer.training for writer in writers]
    for writer in writers:
        writer.eval()
    try:
        yield writers
    finally:
        for writer, before in zip(writers, training, strict=True):
            writer.train(before)


def _until(words: Sequence[int], end: int) -> list[int]:
    """The words up to the first end, which is one of them."""
    return list(words[: words.index(end) + 1]) if end in words else list(words)


def prompts_of(tokens: Tokens) -> list[list[int]]:
    """Of each text the ids before the first word of the response."""
    pairs = zip(tokens.ids.tolist(), tokens.labels.tolist(), strict=True)
    return [
        ids[: 1 + next(place for place, label in enumerate(said) if label != IGNORED)] for ids, said in pairs
    ]
