"""Text generation by causal language models: batched sampling, speculative sampling and beam search with a KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.core.types import IGNORED, Tokens
from kdbench.models.language.causal_lm import CausalLM


@torch.no_grad()
def generate(
    networks: Sequence[nn.Module | None],
    prompts: Sequence[Sequence[int]],
    end: int,
    uniforms: Tensor,
    temperature: float = 1.0,
    top_k: int = 25,
) -> list[list[int]]:
    """Sample a continuation of each prompt.

    With two networks the first proposes each token; if the proposal is not among the `top_k` most probable
    tokens of the second, a draw of the second replaces it.

    Args:
        networks: One or two `CausalLM`s; in eval mode during generation, restored afterwards.
        prompts: B sequences of token ids.
        end: Id of the token that ends a continuation.
        uniforms: Uniform numbers in [0, 1), float64 [B, T, number of networks]; token t of row b is where the
            cumulative distribution reaches `uniforms[b, t]`, so that rows do not depend on each other. T is the
            maximum length.
        temperature: Temperature of the distributions; 0 takes the most probable token.
        top_k: Number of accepted tokens; used with two networks only.

    Returns:
        For each prompt the generated ids, at most T, the last one `end` if it was reached.

    Raises:
        ValueError: If a network is not a `CausalLM`.
    """
    with _eval_mode(networks) as models:
        ids, mask = _pad_left(prompts, end, models[0])
        device = ids.device
        finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        kv_caches: list[Any] = [None] * len(models)
        tokens: list[Tensor] = []
        uniforms = uniforms.to(device)
        while len(tokens) < uniforms.shape[1] and not bool(finished.all()):
            logits = []
            for position, model in enumerate(models):
                next_logits, kv_caches[position] = model.next_token(ids, mask, kv_caches[position])
                logits.append(next_logits)
            uniform = uniforms[:, len(tokens)]
            token = _sample(logits[0], uniform[:, 0], temperature)
            if len(models) > 1:
                top = logits[1].topk(min(top_k, logits[1].shape[-1])).indices
                is_accepted = (top == token[:, None]).any(dim=1)
                token = torch.where(is_accepted, token, _sample(logits[1], uniform[:, 1], temperature))
            tokens.append(torch.where(finished, end, token))
            finished = finished | (tokens[-1] == end)
            ids, mask = tokens[-1][:, None], torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return [_through_end(row, end) for row in torch.stack(tokens, dim=1).tolist()]


@torch.no_grad()
def beam_search(
    network: nn.Module | None, prompts: Sequence[Sequence[int]], end: int, max_tokens: int, beams: int
) -> list[list[int]]:
    """Return the most probable continuation of each prompt that a beam search finds.

    Each step keeps the `beams` continuations with the largest sums of log-probabilities; finished ones
    stay candidates.

    Args:
        network: A `CausalLM`; in eval mode during the search, restored afterwards.
        prompts: B sequences of token ids.
        end: Id of the token that ends a continuation.
        max_tokens: Maximum length of a continuation.
        beams: Number of candidates for each prompt.

    Returns:
        For each prompt the generated ids, the last one `end` if it was reached.
    """
    with _eval_mode([network]) as (model,):
        ids, mask = (rows.repeat_interleave(beams, dim=0) for rows in _pad_left(prompts, end, model))
        scores = ids.new_full((len(prompts), beams), -torch.inf, dtype=torch.float64)
        scores[:, 0] = 0.0  # all beams of a prompt are equal at first: expand one of them
        tokens = ids.new_zeros(len(prompts) * beams, 0)
        first_beam = torch.arange(len(prompts), device=ids.device)[:, None] * beams
        finished, kv_cache = torch.zeros(len(ids), dtype=torch.bool, device=ids.device), None
        while tokens.shape[1] < max_tokens and not bool(finished.all()):
            logits, kv_cache = model.next_token(ids, mask, kv_cache)
            log_p = logits.double().log_softmax(dim=-1)
            log_p[finished] = -torch.inf
            log_p[finished, end] = 0.0
            vocab_size = log_p.shape[-1]
            scores, best = (scores[..., None] + log_p.view(*scores.shape, vocab_size)).flatten(1).topk(beams)
            parents = (first_beam + best // vocab_size).flatten()
            kv_cache.reorder_cache(parents)
            ids = (best % vocab_size).view(-1, 1)
            tokens = torch.cat([tokens[parents], ids], dim=1)
            finished = finished[parents] | (ids[:, 0] == end)
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        winners = (first_beam[:, 0] + scores.argmax(dim=1)).tolist()
    return [_through_end(tokens[row].tolist(), end) for row in winners]


def prompts_of(tokens: Tokens) -> list[list[int]]:
    """Return the ids of each text before the first token of its response."""
    pairs = zip(tokens.ids.tolist(), tokens.labels.tolist(), strict=True)
    return [
        ids[: 1 + next(position for position, label in enumerate(labels) if label != IGNORED)]
        for ids, labels in pairs
    ]


def _pad_left(prompts: Sequence[Sequence[int]], pad_id: int, model: CausalLM) -> tuple[Tensor, Tensor]:
    """Return prompts padded on the left and a mask of what is not padding: int64 [B, L] each."""
    device, width = next(model.parameters()).device, max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=device)
    return ids, mask


def _sample(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Return the token of each row at which its cumulative distribution reaches `uniform`: [B, V], [B] -> [B]."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    cumulative = (logits.double() / temperature).softmax(dim=-1).cumsum(dim=-1)
    token = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]
    return token.clamp(max=logits.shape[-1] - 1)


@contextmanager
def _eval_mode(networks: Sequence[nn.Module | None]) -> Iterator[list[CausalLM]]:
    """Put language models into eval mode within a `with` block."""
    models = [network for network in networks if isinstance(network, CausalLM)]
    if len(models) < len(networks):
        raise ValueError(
            "text generation needs kdbench's causal language models (student=lm_*, gpt2, causal)"
        )
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield models
    finally:
        for model, is_training in zip(models, modes, strict=True):
            model.train(is_training)


def _through_end(tokens: Sequence[int], end: int) -> list[int]:
    """Return the tokens up to and including the first `end`."""
    return list(tokens[: tokens.index(end) + 1]) if end in tokens else list(tokens)
