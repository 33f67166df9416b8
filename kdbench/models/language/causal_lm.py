"""Causal language models: GPT-2 (Radford et al. 2019) in sizes for one CPU core, and pretrained ones of any family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.core.logits import ProjectedLogits
from kdbench.core.types import Batch, Outputs
from kdbench.models.language.pretrained import hash_config, load_pretrained

CONTEXT = 512
"""Context length, in tokens, of a network without pretrained weights."""

SIZES = {"lm_tiny": (2, 64, 2), "lm_small": (4, 128, 4), "lm_medium": (6, 256, 4)}
"""Layers, width and heads of the networks with random weights, by name."""

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "lm_tiny": {},
    "lm_small": {},
    "lm_medium": {},
    "gpt2": {"pretrained": "openai-community/gpt2"},
    "gpt2_medium": {"pretrained": "openai-community/gpt2-medium"},
    "gpt2_large": {"pretrained": "openai-community/gpt2-large"},
    "gpt2_xl": {"pretrained": "openai-community/gpt2-xl"},
}
"""Default options by name. `causal` is any other family, through `options.pretrained`."""

CAUSAL_PREFIX = "causal/"
"""Prefix of names that users give to networks of their own, such as `causal/qwen`."""


class CausalLM(nn.Module):
    """A language model that predicts each token of the first text from the tokens before it.

    Attributes:
        transformer: transformers' network without its last layer.
        head: The last layer; None if it is tied to the token embedding.
        vocab_size: Number of tokens of the tokenizer; surplus rows of the network, which exist for padding, are
            ignored.
        context: Maximum sequence length in tokens.
        settings: Hash of a pretrained network's config (`hash_config`); empty otherwise.
    """

    features: tuple[str, ...] = ()

    def __init__(
        self, body: nn.Module, head: nn.Linear | None, vocab_size: int, context: int = CONTEXT
    ) -> None:
        super().__init__()
        self.transformer = body
        self.head = head
        self.vocab_size, self.context = vocab_size, context
        self.settings = ""

    @property
    def last_layer(self) -> tuple[Tensor, Tensor | None]:
        """Weight [V, D] and bias [V] or None."""
        weight = self.transformer.get_input_embeddings().weight if self.head is None else self.head.weight  # type: ignore[operator]
        bias = None if self.head is None else self.head.bias
        if len(weight) == self.vocab_size:
            return weight, bias
        return weight[: self.vocab_size], None if bias is None else bias[: self.vocab_size]

    def hidden_states(self, ids: Tensor) -> Tensor:
        """Return the last layer's input [B, L, D] for right-padded sequences, int64 [B, L]."""
        # no mask is needed: causal attention lets only padding see padding on the right
        states: Tensor = self.transformer(input_ids=ids, use_cache=False).last_hidden_state
        device = ids.device.type
        return states.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else states

    def next_token(self, ids: Tensor, mask: Tensor, kv_cache: Any = None) -> tuple[Tensor, Any]:
        """Return logits [B, V] of the token after each sequence, and the updated KV cache.

        Args:
            ids: int64 [B, l]: left-padded sequences, or with a KV cache the new tokens only.
            mask: int64 [B, L] over the whole sequences, 0 at padding.
            kv_cache: Cache that the previous call returned.
        """
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self.transformer(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=kv_cache,
            use_cache=True,
        )
        return nn.functional.linear(output.last_hidden_state[:, -1], *self.last_layer), output.past_key_values

    def answer_batch(self, batch: Batch, features: Sequence[str] = ()) -> Outputs:
        """Answer the rows of the batch's first text; their logits [N, V] are computed lazily."""
        tokens = next(iter(batch.texts.values()))
        weight, bias = self.last_layer
        logits = ProjectedLogits(self.hidden_states(tokens.ids)[tokens.valid], weight, bias)
        return Outputs(logits, classifier=(weight, bias))


def causal_lm(name: str, num_classes: int, options: Mapping[str, Any] | None = None) -> CausalLM:
    """Build a language model with random weights (torch's global generator) or pretrained ones.

    Args:
        name: One of `NETWORKS`, `causal` or `causal/NAME`.
        num_classes: Vocabulary size of the tokenizer.
        options: `pretrained`, a folder or hub name; required except for the names in `SIZES`.

    Raises:
        ValueError: For an unknown name or option, weights that cannot be loaded, or a vocabulary that does not fit.
    """
    check_causal(name)
    settings = dict(options or {})
    source = settings.pop("pretrained", None)
    if settings:
        raise ValueError(
            f"options.{next(iter(settings))}: unknown option; a language model takes options.pretrained only"
        )
    if source is None and name not in SIZES:
        raise ValueError(
            f"{name} has no default weights; pass options.pretrained=FOLDER or a name on the hub"
        )
    if source is not None and name in SIZES:
        raise ValueError(
            f"{name} always starts from random weights; to start from {source}, use student=causal instead"
        )
    return _random(name, num_classes) if source is None else _pretrained(num_classes, source)


def _random(name: str, vocab_size: int) -> CausalLM:
    from transformers import GPT2Config, GPT2Model

    layers, width, heads = SIZES[name]
    config = GPT2Config(
        vocab_size=vocab_size,
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
    return CausalLM(GPT2Model(config), None, vocab_size)


def _pretrained(vocab_size: int, source: str) -> CausalLM:
    from transformers import AutoModelForCausalLM

    network = load_pretrained(AutoModelForCausalLM, source, "student=lm_tiny")
    head, embedding = network.get_output_embeddings(), network.get_input_embeddings()
    if len(embedding.weight) < vocab_size:
        raise ValueError(
            f"{source}: the network has {len(embedding.weight):,} tokens, but its tokenizer has {vocab_size:,}"
        )
    is_tied = head.weight is embedding.weight and head.bias is None
    context = getattr(network.config, "max_position_embeddings", None) or CONTEXT
    model = CausalLM(network.base_model, None if is_tied else head, vocab_size, context)
    model.settings = hash_config(network.config)
    _check_outputs(model, network, source)
    return model


@torch.no_grad()
def _check_outputs(model: CausalLM, network: nn.Module, source: str) -> None:
    """Refuse a family without a KV cache, or with more than a linear layer after the last states, e.g. scaling."""
    options = [
        name
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")
        if getattr(network.config, name, None) not in (None, 1, 1.0)
    ]
    ids = torch.arange(min(8, model.vocab_size))[None]
    is_training = network.training
    network.eval()
    expected = network(input_ids=ids, use_cache=False).logits[..., : model.vocab_size]
    logits = nn.functional.linear(model.hidden_states(ids), *model.last_layer)
    try:
        _, kv_cache = model.next_token(ids[:, :-1], torch.ones_like(ids[:, :-1]))
        next_logits, _ = model.next_token(ids[:, -1:], torch.ones_like(ids), kv_cache)
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"{source}: the network has no KV cache ({error}); use a family with one, such as GPT-2 or Llama"
        ) from error
    network.train(is_training)
    pairs = (logits, expected), (next_logits, logits[:, -1])
    if options or not all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in pairs):
        reason = f" ({', '.join(options)})" if options else ""
        raise ValueError(
            f"{source}: the logits are not a linear layer of the last states{reason}; use another family, such as "
            f"GPT-2 or Llama"
        )


def check_causal(name: str) -> None:
    """Raise ValueError, with suggestions, unless `causal_lm` can build a model of this name."""
    possible = (*NETWORKS, "causal")
    if name not in possible and not name.startswith(CAUSAL_PREFIX):
        close = get_close_matches(name, possible, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"Unknown language model: {name!r}{hint} (possible: {', '.join(possible)})")
    if find_spec("transformers") is None:
        raise ValueError("language models need the extra `text`: pip install -e '.[text]'")
