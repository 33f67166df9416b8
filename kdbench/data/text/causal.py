"""What data sets for causal language models share: prompts that are given, and responses whose tokens are rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdbench.core.types import IGNORED
from kdbench.data.text.ragged import Ragged
from kdbench.data.text.text_data import Side, TextData
from kdbench.data.text.tokenizers import (
    EOS,
    PAD,
    pretrained_tokenizer,
    token_id,
    tokenizer_hash,
    trained_tokenizer,
    words_hash,
)
from kdbench.models.language.causal_lm import CONTEXT
from kdbench.utils.hashing import digest


class CausalData(TextData):
    """Texts for a causal language model to continue.

    tokenizer: that of a pretrained network (hub or folder); None: one of `vocabulary` tokens is trained on the training
    texts. max_prompt, max_response: tokens.
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
        for key, value, least in (
            *(("max_prompt", max_prompt, 2), ("max_response", max_response, 2)),
            ("vocabulary", vocabulary, 300),
        ):
            if value < least:
                raise ValueError(f"dataset.{key} must be at least {least}, got {value}")
        self.label_space = self.name
        self._source, self._vocabulary = tokenizer, vocabulary
        self._max_prompt, self.max_response = max_prompt, max_response
        if tokenizer is None:
            self.check_context(CONTEXT)

    def choose_words(self, train: Sequence[str]) -> None:
        """Find the tokenizer, or train it on these texts."""
        if self._source is not None:
            self.tokenizer, self.end = pretrained_tokenizer(self._source)
            self.words = words_hash(self.tokenizer, self.end)
        else:
            self.tokenizer, self.end = trained_tokenizer(train, self._vocabulary), EOS
            self.words = tokenizer_hash(self.tokenizer)
        self.num_classes = self.tokenizer.get_vocab_size()
        self.mark = token_id(self.tokenizer, self.end)
        padding = self.tokenizer.token_to_id(PAD)
        self.pad_id = self.mark if padding is None else padding

    def side_of(self, given: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Side:
        """Sequences of what is given and its response, and the token after each position that is of the response."""
        inputs, labels = [], []
        for prompt, response in zip(given, responses, strict=True):
            inputs.append([*prompt, *response[:-1]])
            labels.append([IGNORED] * (len(prompt) - 1) + list(response))
        return Side(Ragged.of(inputs), Ragged.of(labels))

    def fingerprint_of(self, content: Any) -> str:
        """Of the texts and of what the tokenizer makes of them."""
        return digest([content, self.words])

    @property
    def about(self) -> dict[str, Any]:
        """The size of the vocabulary, and whose words they are."""
        return {**super().about, "tokenizer": self.words}

    @property
    def limits(self) -> tuple[int, int]:
        """The mark, and the most tokens of a response."""
        return self.mark, self.max_response

    def check_tokenizer(self, source: str | None) -> None:
        """Check that a pretrained network reads the tokens of the data.

        Args:
            source: The folder or hub repository of the network; None for one without pretrained weights.

        Raises:
            ValueError: The network's tokenizer splits text otherwise.
        """
        is_other = source is not None and source != self._source
        if is_other and words_hash(*pretrained_tokenizer(str(source))) != self.words:
            raise ValueError(
                f"dataset.tokenizer={self._source} gives other tokens than {source}: a network reads those that it "
                f"was trained with, and teacher and student must read the same"
            )

    def check_context(self, context: int) -> None:
        """Raise ValueError unless the longest prompt and response fit into so many tokens."""
        if self._max_prompt + self.max_response > context:
            raise ValueError(
                f"dataset.max_prompt + dataset.max_response is {self._max_prompt + self.max_response}; "
                f"a network sees {context}"
            )
