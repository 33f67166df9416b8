"""T5: an encoder-decoder that answers each view of a text in a pass of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.core.types import Batch, Outputs, Tokens
from kdbench.models.language.pretrained import loaded, needs, settings_of

NAMES = ("t5_tiny", "t5_small", "t5_base", "t5_v1_1_small", "t5_v1_1_base")
_TIED = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


@dataclass(frozen=True, slots=True)
class Said:
    """What a network wrote to B texts: ids int64 [B, T] with the end, where it came to one; and at each position the
    log-probability of the token [B, T] (0 after the end)."""

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
    """The network `name`: with the weights of a folder or of the hub (`options.pretrained`), else random ones, drawn
    from torch's generator, for a vocabulary of so many tokens, with `options` of transformers' T5Config.

    ValueError where transformers is missing, cannot load it, or knows no such option.
    """
    own = dict(options or {})
    source = own.pop("pretrained", pretrained)
    size = vocabulary or num_classes
    try:
        from transformers import T5Config, T5ForConditionalGeneration
    except ImportError as error:
        raise ValueError(str(needs("transformers"))) from error
    if source is not None:
        if own:
            raise ValueError(
                f"student.options.{next(iter(own))}: a pretrained {name} has what its files say; possible: "
                f"pretrained"
            )
        made = T5(name, loaded(T5ForConditionalGeneration, source, "student=t5_tiny"))
        made.settings = settings_of(made.network.config)
        return made
    if stray := [key for key in own if key not in T5Config().to_dict()]:
        raise ValueError(f"student.options.{stray[0]}: transformers' T5Config has no such key")
    # tie_word_embeddings is left alone: set to False it would leave the outputs tied and unscaled (transformers 5)
    own |= {"vocab_size": size, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    return T5(name, T5ForConditionalGeneration(T5Config(**own)))


class T5(nn.Module):
    """Wraps transformers' T5.

    features: `pooled`, the mean of the decoder's last states over the valid positions, [B, D], of each text.
    """

    features = ("pooled",)

    def __init__(self, name: str, network: Any) -> None:
        super().__init__()
        self.name, self.network, self.settings = name, network, ""
        network.config.use_cache = False
        # weights that are tied are one: stored once, and found under every name again
        self.register_state_dict_post_hook(_drop_tied)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_add_tied)  # type: ignore[no-untyped-call]

    def answer_batch(self, batch: Batch, features: Sequence[str] = ()) -> Outputs:
        """Logits [N, V] of the first text's valid positions; every text's [B, T, V] in `parts`."""
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
    def generate(self, tokens: Tokens, longest: int) -> Said:
        """What it says to each text, the likeliest token at every position, at most `longest` of them."""
        # the network's own attribute is off in training; writing goes faster with it
        answer = self.network.generate(
            input_ids=tokens.ids,
            attention_mask=tokens.mask,
            max_new_tokens=longest,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            return_dict_in_generate=True,
            output_logits=True,
        )
        ids = answer.sequences[:, 1:]  # behind the start
        log = torch.stack(
            [
                step.float().log_softmax(dim=-1).gather(1, ids[:, place, None])[:, 0]
                for place, step in enumerate(answer.logits)
            ],
            dim=1,
        )
        end = self.network.config.eos_token_id
        after = ((ids == end).cumsum(dim=1) - (ids == end).long()) > 0
        return Said(ids.masked_fill(after, self.network.config.pad_token_id), log.masked_fill(after, 0.0))


def _drop_tied(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    shared = state.get(f"{prefix}network.shared.weight")
    for name in _TIED:
        key = f"{prefix}network.{name}"
        if shared is not None and key in state and state[key].data_ptr() == shared.data_ptr():
            del state[key]


def _add_tied(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    shared = state.get(f"{prefix}network.shared.weight")
    for name in _TIED:
        if shared is not None:
            state.setdefault(f"{prefix}network.{name}", shared)
