"""Causal language models: GPT-2 (Radford et al. 2019) at sizes for one CPU core, and pretrained ones of any family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from kdbench.core.logits import ProjectedLogits
from kdbench.core.types import Batch, Outputs
from kdbench.models.language.pretrained import loaded, settings_of

CONTEXT = 512
"""The longest sequence, in tokens, of a network without pretrained weights."""

SIZES = {"lm_tiny": (2, 64, 2), "lm_small": (4, 128, 4), "lm_medium": (6, 256, 4)}
"""Layers, width and heads by name."""

PRETRAINED = ("gpt2", "gpt2_medium", "gpt2_large", "gpt2_xl", "causal")
"""Those whose weights are a folder's or the hub's: GPT-2's four sizes, and whatever `options.pretrained` says."""

CAUSAL = "causal/"
"""What the name begins with that somebody gives to a network of their own: `causal/qwen`."""


class CausalLM(nn.Module):
    """Answers each token of the first text from those before it.

    body: transformers' network without its last layer; head: that layer, or None where it is the embedding of words
    (tied). words: how many the tokenizer has; a network that has more of them, to round up, answers these alone.
    """

    features: tuple[str, ...] = ()

    def __init__(self, body: nn.Module, head: nn.Linear | None, words: int, context: int = CONTEXT) -> None:
        super().__init__()
        self.transformer = body
        self.head = head
        self.words, self.context = words, context
        self.settings = ""
        """Of a pretrained network a hash of what its files say beside its weights."""

    @property
    def last_layer(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight [V, D] and bias [V] or None."""
        weight = self.transformer.get_input_embeddings().weight if self.head is None else self.head.weight  # type: ignore[operator]
        bias = None if self.head is None else self.head.bias
        if len(weight) == self.words:
            return weight, bias
        return weight[: self.words], None if bias is None else bias[: self.words]

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """Of sequences int64 [B, L], padded at the right, the last layer's input [B, L, D]."""
        # no mask: what is padded at the right is seen by padding alone
        states: torch.Tensor = self.transformer(input_ids=ids, use_cache=False).last_hidden_state
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
        return nn.functional.linear(answer.last_hidden_state[:, -1], *self.last_layer), answer.past_key_values

    def answer_batch(self, batch: Batch, features: Sequence[str] = ()) -> Outputs:
        """The rows of the batch's first text; their logits are made when somebody looks."""
        tokens = next(iter(batch.texts.values()))
        weight, bias = self.last_layer
        logits = ProjectedLogits(self.hidden(tokens.ids)[tokens.valid], weight, bias)
        return Outputs(logits, classifier=(weight, bias))


def causal_lm(name: str, num_classes: int, options: Mapping[str, Any] | None = None) -> CausalLM:
    """The language model of that name over a vocabulary of so many words: initialised from torch's generator, or with
    the weights of a folder or of the hub (`options.pretrained`). ValueError where it cannot be had, or does not fit the
    words."""
    check_causal(name)
    own = dict(options or {})
    pretrained = own.pop("pretrained", None)
    if own:
        raise ValueError(f"options.{next(iter(own))}: a language model has options.pretrained alone")
    if pretrained is None and name not in SIZES:
        raise ValueError(
            f"{name} has no sizes of its own: options.pretrained says which folder, or name on the hub"
        )
    if pretrained is not None and name in SIZES:
        raise ValueError(f"{name} has random weights; with those of {pretrained} it is student=causal")
    return _small(name, num_classes) if pretrained is None else _pretrained(num_classes, pretrained)


def _small(name: str, words: int) -> CausalLM:
    from transformers import GPT2Config, GPT2Model

    layers, width, heads = SIZES[name]
    config = GPT2Config(
        vocab_size=words,
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
    return CausalLM(GPT2Model(config), None, words)


def _pretrained(words: int, source: str) -> CausalLM:
    from transformers import AutoModelForCausalLM

    whole = loaded(AutoModelForCausalLM, source, "student=lm_tiny")
    head, embedding = whole.get_output_embeddings(), whole.get_input_embeddings()
    if len(embedding.weight) < words:
        raise ValueError(f"{source} knows {len(embedding.weight):,} words, and its tokenizer has {words:,}")
    tied = head.weight is embedding.weight and head.bias is None
    context = getattr(whole.config, "max_position_embeddings", None) or CONTEXT
    made = CausalLM(whole.base_model, None if tied else head, words, context)
    made.settings = settings_of(whole.config)
    _check_answers(made, whole, source)
    return made


@torch.no_grad()
def _check_answers(made: CausalLM, whole: nn.Module, source: str) -> None:
    """Refuse a family that does more after its last states than its last layer, such as scaling."""
    said = [
        name
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")
        if _of(whole.config, name)
    ]
    ids = torch.arange(min(8, made.words))[None]
    training = whole.training
    whole.eval()
    expected = whole(input_ids=ids, use_cache=False).logits[..., : made.words]
    found = nn.functional.linear(made.hidden(ids), *made.last_layer)
    try:
        word, memory = made.next_word(ids[:, :-1], torch.ones_like(ids[:, :-1]))
        word, _ = made.next_word(ids[:, -1:], torch.ones_like(ids), memory)
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"{source} has no memory of what it has read ({error}); it cannot be used here"
        ) from error
    whole.train(training)
    pairs = (found, expected), (word, found[:, -1])
    if said or not all(torch.allclose(own, other, rtol=1e-4, atol=1e-4) for own, other in pairs):
        why = f" ({', '.join(said)})" if said else ""
        raise ValueError(
            f"{source}: its answers are not its last layer's{why}; such networks are not known here"
        )


def _of(config: Any, name: str) -> bool:
    """Whether a configuration says that answers are scaled or capped."""
    return getattr(config, name, None) not in (None, 1, 1.0)


def check_causal(name: str) -> None:
    """ValueError, with what is possible, where there is no language model of that name or it cannot be built."""
    known = (*SIZES, *PRETRAINED)
    if name not in known and not name.startswith(CAUSAL):
        close = get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"Unknown language model: {name!r}{hint} (possible: {', '.join(known)})")
    if find_spec("transformers") is None:
        raise ValueError("language models need the extra `text`: pip install -e '.[text]'")
