"""Base class of data sets for causal language models: prompts, and responses whose tokens are the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdbench.core.types import IGNORED
from kdbench.data.text.ragged import Ragged
from kdbench.data.text.text_data import TextData, TokenView
from kdbench.data.text.tokenizers import (
    EOS,
    PAD,
    load_tokenizer,
    token_id,
    tokenizer_hash,
    train_tokenizer,
    vocabulary_hash,
)
from kdbench.models.language.causal_lm import CONTEXT
from kdbench.utils.hashing import digest
from kdbench.utils.validation import check_at_least


class CausalData(TextData):
    """Prompts and responses for a causal language model.

    Args:
        name: Name in records and messages.
        seed: Seed of the order.
        batch_size: Texts of a training step.
        tokenizer: Hub name or folder of a pretrained network's tokenizer; None trains one on the training texts.
        vocabulary: Number of tokens of a trained tokenizer.
        max_prompt: Maximum length of prompts, in tokens.
        max_response: Maximum length of responses, in tokens.
        eval_batch_size: Texts of an evaluation step.
        epoch_steps: Steps of an epoch; None for one pass.

    Raises:
        ValueError: For invalid options.
    """

    task = "lm"

    def __init__(
        self,
        name: str,
        seed: int,
        batch_size: int,
        *,
        tokenizer: str | None,
        vocabulary: int,
        max_prompt: int,
        max_response: int,
        eval_batch_size: int,
        epoch_steps: int | None,
    ) -> None:
        super().__init__(name, seed, batch_size, eval_batch_size, epoch_steps)
        check_at_least("dataset", 2, max_prompt=max_prompt, max_response=max_response)
        check_at_least("dataset", 300, vocabulary=vocabulary)
        self.label_space = self.name
        self._source, self._vocabulary = tokenizer, vocabulary
        self._max_prompt, self.max_response = max_prompt, max_response
        if tokenizer is None:
            self.check_context(CONTEXT)

    def set_tokenizer(self, texts: Sequence[str]) -> None:
        """Load the pretrained tokenizer, or train one on these texts."""
        if self._source is not None:
            self.tokenizer, self.end_token = load_tokenizer(self._source)
            self.vocabulary_hash = vocabulary_hash(self.tokenizer, self.end_token)
        else:
            self.tokenizer, self.end_token = train_tokenizer(texts, self._vocabulary), EOS
            self.vocabulary_hash = tokenizer_hash(self.tokenizer)
        self.num_classes = self.tokenizer.get_vocab_size()
        self.end_id = token_id(self.tokenizer, self.end_token)
        pad_id = self.tokenizer.token_to_id(PAD)
        self.pad_id = self.end_id if pad_id is None else pad_id

    def join(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> TokenView:
        """Concatenate prompts and responses; the labels are the next tokens of the response, else `IGNORED`.

        Args:
            prompts: Token ids of each prompt.
            responses: Token ids of each response, including its end.
        """
        inputs, labels = [], []
        for prompt, response in zip(prompts, responses, strict=True):
            inputs.append([*prompt, *response[:-1]])
            labels.append([IGNORED] * (len(prompt) - 1) + list(response))
        return TokenView(Ragged.of(inputs), Ragged.of(labels))

    def fingerprint_of(self, content: Any) -> str:
        """Return the fingerprint of texts and tokenizer."""
        return digest([content, self.vocabulary_hash])

    @property
    def label_info(self) -> dict[str, Any]:
        """Vocabulary size, label space and hash of the vocabulary."""
        return {**super().label_info, "tokenizer": self.vocabulary_hash}

    @property
    def generation_limits(self) -> tuple[int, int]:
        """Id of the end token, and the maximum length of a response in tokens."""
        return self.end_id, self.max_response

    def check_tokenizer(self, source: str | None) -> None:
        """Check that a pretrained network reads the tokens of the data.

        Args:
            source: The folder or hub repository of the network; None for one without pretrained weights.

        Raises:
            ValueError: The network's tokenizer splits text otherwise.
        """
        is_other = source is not None and source != self._source
        if is_other and vocabulary_hash(*load_tokenizer(str(source))) != self.vocabulary_hash:
            raise ValueError(
                f"dataset.tokenizer={self._source} gives other tokens than {source}; pass dataset.tokenizer={source}, "
                f"because a network needs the tokens that it was trained with, and teacher and student the same ones"
            )

    def check_context(self, context: int) -> None:
        """Raise ValueError unless the longest prompt and response fit into so many tokens."""
        if self._max_prompt + self.max_response > context:
            raise ValueError(
                f"dataset.max_prompt + dataset.max_response is {self._max_prompt + self.max_response}, but the network "
                f"has a context of {context} tokens; reduce one of them"
            )
