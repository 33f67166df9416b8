"""Tokenizers: those of pretrained networks, and small ones trained on a data set; and texts as tokens, kept on disk."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdbench.files import write_atomically
from kdbench.results import digest
from kdbench.teacher.store import home
from kdbench.text.ragged import Ragged

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"
SPECIAL = (PAD, EOS, UNKNOWN)
"""With the ids 0, 1, 2, as T5 has them."""


def needs(package: str) -> ImportError:
    """What to say where a package of the extra `text` is missing."""
    return ImportError(f"text needs the package {package}: pip install 'kdbench[text]'")


def trained_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Byte-pair encoding of so many tokens, learned from these texts, each digit a token of its own. It is kept in
    kdbench's home, by texts and size; a text that was never seen has tokens too, down to `<unk>`."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ValueError(str(needs("tokenizers"))) from error
    content = hashlib.sha256("\0".join(texts).encode()).hexdigest()
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


def pretrained_tokenizer(source: str) -> Tokenizer:
    """The tokenizer of a network on the hub, or in a local folder; ValueError where it cannot be had."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ValueError(str(needs("transformers"))) from error
    try:
        backend: Tokenizer = AutoTokenizer.from_pretrained(source).backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(unreachable(source, error)) from error
    return backend


def unreachable(source: str, error: Exception) -> str:
    """What to say where a pretrained network cannot be loaded."""
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return (
        f"{source} cannot be loaded ({first.strip()}); it must be a folder with a network and its tokenizer as "
        f"transformers saves them (student.options.pretrained=FOLDER), or a name on the hub that can be reached "
        f"from here. student=t5_tiny needs neither"
    )


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Of all that it does."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:16]


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Of a token that every tokenizer here has; ValueError for one of another family."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no {token}: it is none of a T5")
    return found


def encoded(tokenizer: Tokenizer, texts: Sequence[str], longest: int) -> Ragged:
    """The texts as ids with an end each, cut at `longest` tokens, the end included. Kept in kdbench's home."""
    content = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    name = digest([tokenizer_hash(tokenizer), content, len(texts), longest])
    file = home() / "tokens" / f"{name}.pt"
    if file.is_file():
        stored: dict[str, Any] = torch.load(file, weights_only=True)
        return Ragged(stored["values"], stored["offsets"])
    end = token_id(tokenizer, EOS)
    made = Ragged.of(
        [
            [*one.ids[: longest - 1], end]
            for one in tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ]
    )
    _store(file, made)
    return made


def _store(file: Path, made: Ragged) -> None:
    buffer = io.BytesIO()
    torch.save({"values": made.values, "offsets": made.offsets}, buffer)
    write_atomically(file, buffer.getvalue())
