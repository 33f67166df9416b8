"""Causal language models built from a configuration: GPT-2 (Radford et al. 2019) at sizes for one CPU core."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from kdbench.core import Batch, Hidden, Outputs

CONTEXT = 512
"""The longest sequence, in tokens."""

SIZES = {"lm_tiny": (2, 64, 2), "lm_small": (4, 128, 4), "lm_medium": (6, 256, 4)}
"""Layers, width and heads by name."""


class CausalLM(nn.Module):
    """Answers each token of the first text from those before it. The last layer is the embedding of words (tied)."""

    taps: tuple[str, ...] = ()

    def __init__(self, vocabulary: int, layers: int, width: int, heads: int) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2Model

        config = GPT2Config(
            vocab_size=vocabulary,
            n_positions=CONTEXT,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=None,
        )
        self.transformer = GPT2Model(config)

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """Of sequences int64 [B, L], padded at the right, the last layer's input [B, L, D]."""
        # no mask: what is padded at the right is seen by padding alone
        states: torch.Tensor = self.transformer(input_ids=ids).last_hidden_state
        kind = ids.device.type
        return states.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else states

    def next_word(
        self, ids: torch.Tensor, mask: torch.Tensor, memory: Any = None
    ) -> tuple[torch.Tensor, Any]:
        """Logits [B, V] of the word after each sequence, and what is to be remembered of it.

        ids: int64 [B, l], all of the sequences, padded at the left, or with the memory of those before them the new
        ones alone; mask: int64 [B, L], 0 where the whole sequences are padding.
        """
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        answer = self.transformer(
            input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=memory, use_cache=True
        )
        logits = nn.functional.linear(answer.last_hidden_state[:, -1], self.transformer.wte.weight)
        return logits, answer.past_key_values

    def answer_batch(self, batch: Batch, taps: Sequence[str] = ()) -> Outputs:
        """The rows of the batch's first text; their logits are made when somebody looks."""
        tokens = next(iter(batch.texts.values()))
        return Hidden(self.hidden(tokens.ids)[tokens.valid], self.transformer.wte.weight)


def causal_lm(name: str, num_classes: int) -> CausalLM:
    """The language model of that name over a vocabulary of so many words, initialised from torch's generator."""
    check_causal(name)
    return CausalLM(num_classes, *SIZES[name])


def check_causal(name: str) -> None:
    """ValueError, with what is possible, where there is no language model of that name or it cannot be built."""
    if name not in SIZES:
        close = get_close_matches(name, SIZES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"Unknown language model: {name!r}{hint} (possible: {', '.join(SIZES)})")
    if find_spec("transformers") is None:
        raise ValueError("language models need the extra `text`: pip install 'kdbench[text]'")
