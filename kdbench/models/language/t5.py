"""T5: an encoder-decoder that answers each view of a text in its own forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.core.types import Batch, Outputs, Tokens
from kdbench.models.language.pretrained import hash_config, load_pretrained, missing_package

NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "t5_tiny": {
        "d_model": 128,
        "d_kv": 32,
        "d_ff": 256,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
    },
    "t5_small": {"pretrained": "google-t5/t5-small"},
    "t5_base": {"pretrained": "google-t5/t5-base"},
    "t5_v1_1_small": {"pretrained": "google/t5-v1_1-small"},
    "t5_v1_1_base": {"pretrained": "google/t5-v1_1-base"},
}
"""Default options by name. `t5_tiny` has random weights: 1.05 million parameters at 2,048 tokens."""

_TIED_WEIGHTS = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


@dataclass(frozen=True, slots=True)
class Generation:
    """Texts that a network generated for B inputs.

    Attributes:
        ids: Token ids, int64 [B, T], including the end token where it was reached; padding after it.
        log_probability: Log-probability of each token, float32 [B, T]; 0 after the end.
    """

    ids: Tensor
    log_probability: Tensor


def t5(
    name: str,
    vocabulary: int = 0,
    pretrained: str | None = None,
    options: Mapping[str, Any] | None = None,
    num_classes: int = 0,
    checkpoint: str | None = None,
) -> T5:
    """Build a T5 with pretrained or random weights; the latter are drawn from torch's global generator.

    Args:
        name: Name in records, one of `NETWORKS`.
        vocabulary: Number of tokens of a network with random weights.
        pretrained: Folder or hub name of pretrained weights.
        options: `pretrained`, which overrides the argument, or keys of transformers' T5Config.
        num_classes: The same as `vocabulary`.
        checkpoint: Not used; every entry of the group `model` takes it.

    Raises:
        ValueError: If transformers is missing or cannot load the network, or an option is unknown.
    """
    settings = dict(options or {})
    source = settings.pop("pretrained", pretrained)
    vocab_size = vocabulary or num_classes
    try:
        from transformers import T5Config, T5ForConditionalGeneration
    except ImportError as error:
        raise ValueError(str(missing_package("transformers"))) from error
    if source is not None:
        if settings:
            raise ValueError(
                f"student.options.{next(iter(settings))}: a pretrained {name} takes its settings from its files; "
                f"the only option is pretrained"
            )
        model = T5(name, load_pretrained(T5ForConditionalGeneration, source, "student=t5_tiny"))
        model.settings = hash_config(model.network.config)
        return model
    if unknown := [key for key in settings if key not in T5Config().to_dict()]:
        raise ValueError(f"student.options.{unknown[0]}: transformers' T5Config has no such key")
    # tie_word_embeddings keeps its default: False would leave the outputs tied but unscaled (transformers 5)
    settings |= {
        "vocab_size": vocab_size,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    return T5(name, T5ForConditionalGeneration(T5Config(**settings)))


class T5(nn.Module):
    """transformers' T5 as a kdbench text network.

    Attributes:
        features: `pooled`, the decoder's last states averaged over the valid positions of each text, [B, D].
        settings: Hash of a pretrained network's config (`hash_config`); empty otherwise.
    """

    features = ("pooled",)

    def __init__(self, name: str, network: Any) -> None:
        super().__init__()
        self.name, self.network, self.settings = name, network, ""
        network.config.use_cache = False
        # tied weights are one tensor: saved once, and restored under each of their names
        self.register_state_dict_post_hook(_drop_tied_weights)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_add_tied_weights)  # type: ignore[no-untyped-call]

    def answer_batch(self, batch: Batch, features: Sequence[str] = ()) -> Outputs:
        """Answer every text of a batch.

        Args:
            batch: Batch with texts.
            features: Names of features to report, of `self.features`.

        Returns:
            Logits [N, V] at the valid positions of the first text; the padded answers [B, T, V] to all texts
            in `parts`, by view.

        Raises:
            ValueError: For an unknown feature.
        """
        if unknown := set(features) - set(self.features):
            raise ValueError(f"T5 has no feature {', '.join(map(repr, sorted(unknown)))}; it has pooled")
        parts = {view: self._answer(tokens, bool(features)) for view, tokens in batch.texts.items()}
        view, first = next(iter(batch.texts.items()))
        return replace(parts[view], raw_logits=parts[view].logits[first.valid], parts=parts)

    def _answer(self, tokens: Tokens, select_features: bool) -> Outputs:
        inputs = self.network.prepare_decoder_input_ids_from_labels(tokens.labels)
        answer = self.network(
            input_ids=tokens.ids,
            attention_mask=tokens.mask,
            decoder_input_ids=inputs,
            output_hidden_states=select_features,
            use_cache=False,
        )
        if not select_features:
            return Outputs(answer.logits)
        states, valid = answer.decoder_hidden_states[-1], tokens.valid[..., None]
        pooled = (states * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)
        return Outputs(answer.logits, {"pooled": pooled})

    @torch.no_grad()
    def generate(self, tokens: Tokens, max_tokens: int) -> Generation:
        """Decode greedily, at most `max_tokens` tokens for each text."""
        # config.use_cache is off for training; generation is faster with a KV cache
        output = self.network.generate(
            input_ids=tokens.ids,
            attention_mask=tokens.mask,
            max_new_tokens=max_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            return_dict_in_generate=True,
            output_logits=True,
        )
        ids = output.sequences[:, 1:]  # without the start token
        log_p = torch.stack(
            [
                logits.float().log_softmax(dim=-1).gather(1, ids[:, position, None])[:, 0]
                for position, logits in enumerate(output.logits)
            ],
            dim=1,
        )
        end = self.network.config.eos_token_id
        is_after_end = ((ids == end).cumsum(dim=1) - (ids == end).long()) > 0
        pad = self.network.config.pad_token_id
        return Generation(ids.masked_fill(is_after_end, pad), log_p.masked_fill(is_after_end, 0.0))


def _drop_tied_weights(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    shared = state.get(f"{prefix}network.shared.weight")
    for name in _TIED_WEIGHTS:
        key = f"{prefix}network.{name}"
        if shared is not None and key in state and state[key].data_ptr() == shared.data_ptr():
            del state[key]


def _add_tied_weights(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    shared = state.get(f"{prefix}network.shared.weight")
    for name in _TIED_WEIGHTS:
        if shared is not None:
            state.setdefault(f"{prefix}network.{name}", shared)
