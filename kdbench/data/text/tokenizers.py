"""Tokenizers, pretrained or trained on a data set, and tokenised texts cached on disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from kdbench.data.text.ragged import Ragged
from kdbench.models.language.pretrained import load_failure, missing_package
from kdbench.utils.atomic_io import write_atomically
from kdbench.utils.hashing import digest
from kdbench.utils.paths import home

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"
SPECIAL = (PAD, EOS, UNKNOWN)
"""Special tokens with the ids 0, 1, 2, as in T5."""


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Train a byte-pair encoding, or load it from kdbench's home if it was trained before.

    Each digit is its own token; characters that the texts do not have become `<unk>`.

    Args:
        texts: Training texts.
        vocabulary: Number of tokens.

    Raises:
        ValueError: If the package tokenizers is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ValueError(str(missing_package("tokenizers"))) from error
    content = texts_hash(texts)
    file = home() / "tokenizers" / f"{digest([content, vocabulary, 1])}.json"
    if not file.is_file():
        write_atomically(file, _train(texts, vocabulary).to_str().encode())
    return Tokenizer.from_file(str(file))


def _train(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")  # as in T5's tokenizer, which has no line feed
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False, min_frequency=2
    )
    previous = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the order of counting must not depend on threads
    try:
        tokenizer.train_from_iterator(texts, trainer)
    finally:
        os.environ.pop("TOKENIZERS_PARALLELISM")
        if previous is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = previous
    return tokenizer


@cache
def load_tokenizer(source: str) -> tuple[Tokenizer, str]:
    """Load the tokenizer of a pretrained network.

    Args:
        source: Local folder, or name on the hub.

    Returns:
        The tokenizer and its end-of-text token.

    Raises:
        ValueError: If it cannot be loaded or has no end-of-text token.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ValueError(str(missing_package("transformers"))) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        backend: Tokenizer = tokenizer.backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(load_failure(source, error)) from error
    if tokenizer.eos_token is None:
        raise ValueError(f"{source}: the tokenizer has no end-of-text token (eos_token); use another one")
    backend.no_truncation()
    backend.no_padding()
    return backend, str(tokenizer.eos_token)


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Hash a tokenizer's whole configuration."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:16]


def vocabulary_hash(tokenizer: Tokenizer, end: str) -> str:
    """Hash what determines a pretrained tokenizer's tokens and its end-of-text token."""
    config = json.loads(tokenizer.to_str())
    parts = {name: config.get(name) for name in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
    return digest([parts, end, tokenizer.token_to_id(end)])


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Return the id of a token; ValueError if the tokenizer has no such token."""
    number = tokenizer.token_to_id(token)
    if number is None:
        raise ValueError(f"the tokenizer has no token {token}; use one of this family of networks")
    return number


def encode(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int, end: str = EOS) -> Ragged:
    """Tokenise texts, or load the tokens from kdbench's home if they were tokenised before.

    Args:
        tokenizer: Tokenizer.
        texts: Texts.
        max_tokens: Length at which a text is cut, in tokens, including the end.
        end: Token that ends each text.
    """
    end_id = token_id(tokenizer, end)

    def make() -> list[list[int]]:
        encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [[*encoding.ids[: max_tokens - 1], end_id] for encoding in encodings]

    return cached_tokens([tokenizer_hash(tokenizer), end_id, texts_hash(texts), len(texts), max_tokens], make)


def texts_hash(texts: Sequence[str]) -> str:
    """Hash a sequence of texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def cached_tokens(key: Sequence[Any], make: Callable[[], Sequence[Sequence[int]]]) -> Ragged:
    """Load sequences of token ids from kdbench's home, or make and store them.

    Args:
        key: Everything that the sequences depend on.
        make: Returns the sequences.
    """
    file = home() / "tokens" / f"{digest(list(key))}.pt"
    if file.is_file():
        stored: dict[str, Any] = torch.load(file, weights_only=True)
        return Ragged(stored["values"], stored["offsets"])
    tokens = Ragged.of(make())
    buffer = io.BytesIO()
    torch.save({"values": tokens.values, "offsets": tokens.offsets}, buffer)
    write_atomically(file, buffer.getvalue())
    return tokens
