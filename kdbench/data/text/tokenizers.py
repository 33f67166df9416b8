"""Tokenizers: those of pretrained networks, and small ones trained on a data set; and texts as tokens, kept on disk."""

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
"""With the ids 0, 1, 2, as T5 has them."""


def trained_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Byte-pair encoding of so many tokens, learned from these texts, each digit a token of its own. It is kept in
    kdbench's home, by texts and size; a text that was never seen has tokens too, down to `<unk>`."""
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
    spaces = normalizers.Replace(Regex(r"\s+"), " ")  # a T5's tokenizer knows no line feed either
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False, min_frequency=2
    )
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one order of counting, everywhere
    try:
        tokenizer.train_from_iterator(texts, trainer)
    finally:
        os.environ.pop("TOKENIZERS_PARALLELISM")
        if before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before
    return tokenizer


@cache
def pretrained_tokenizer(source: str) -> tuple[Tokenizer, str]:
    """The tokenizer of a network on the hub, or in a local folder, and its end of a text; ValueError where it cannot be
    had, or has no such end."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ValueError(str(missing_package("transformers"))) from error
    try:
        whole = AutoTokenizer.from_pretrained(source)
        backend: Tokenizer = whole.backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(load_failure(source, error)) from error
    if whole.eos_token is None:
        raise ValueError(f"the tokenizer of {source} has no end of a text (eos_token)")
    backend.no_truncation()
    backend.no_padding()
    return backend, str(whole.eos_token)


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Of all that it does."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:16]


def words_hash(tokenizer: Tokenizer, end: str) -> str:
    """Of the words that a pretrained tokenizer makes of a text, and of its end of one, however they are kept."""
    said = json.loads(tokenizer.to_str())
    parts = {name: said.get(name) for name in ("model", "normalizer", "pre_tokenizer", "added_tokens")}
    return digest([parts, end, tokenizer.token_to_id(end)])


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Of a token that every tokenizer here has; ValueError for one of another family."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no {token}: it is one of another family of networks")
    return found


def encoded(tokenizer: Tokenizer, texts: Sequence[str], longest: int, end: str = EOS) -> Ragged:
    """The texts as ids with an end each, cut at `longest` tokens, the end included. Kept in kdbench's home."""
    mark = token_id(tokenizer, end)

    def make() -> list[list[int]]:
        found = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [[*one.ids[: longest - 1], mark] for one in found]

    return kept([tokenizer_hash(tokenizer), mark, texts_hash(texts), len(texts), longest], make)


def texts_hash(texts: Sequence[str]) -> str:
    """Of what they say."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def kept(what: Sequence[Any], make: Callable[[], Sequence[Sequence[int]]]) -> Ragged:
    """Sequences of ids as they were made once for `what`, in kdbench's home."""
    file = home() / "tokens" / f"{digest(list(what))}.pt"
    if file.is_file():
        stored: dict[str, Any] = torch.load(file, weights_only=True)
        return Ragged(stored["values"], stored["offsets"])
    made = Ragged.of(make())
    buffer = io.BytesIO()
    torch.save({"values": made.values, "offsets": made.offsets}, buffer)
    write_atomically(file, buffer.getvalue())
    return made
