"""A tokenizer of the data's own: byte-level pairs (Sennrich et al. 2016, arXiv:1508.07909), trained once and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from kdbench.files import write_atomically
from kdbench.teacher.store import home

SPECIAL = ("<pad>", "<bos>", "<sep>", "<eos>")
PAD, BOS, SEP, EOS = range(len(SPECIAL))
SMALLEST = 256 + len(SPECIAL)
"""A vocabulary of all bytes, with which any text can be written."""


@dataclass(frozen=True)
class BytePairs:
    """A trained tokenizer, as its description in JSON."""

    description: str

    @property
    def hash(self) -> str:
        """Tells tokenizers apart: SHA-256 of the description, hex, shortened."""
        return hashlib.sha256(self.description.encode()).hexdigest()[:16]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without special ones."""
        coder = _library().Tokenizer.from_str(self.description)
        return [encoding.ids for encoding in coder.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[Sequence[int]]) -> list[str]:
        """The texts of these ids, special ones left out."""
        coder = _library().Tokenizer.from_str(self.description)
        texts: list[str] = coder.decode_batch([list(row) for row in ids], skip_special_tokens=True)
        return texts


def byte_pairs(texts: Sequence[str], size: int) -> BytePairs:
    """The tokenizer with a vocabulary of at most `size` that these texts make, from the cache where it is there."""
    if size < SMALLEST:
        raise ValueError(
            f"dataset.vocabulary must be at least {SMALLEST} (all bytes and {len(SPECIAL)} marks), got {size}"
        )
    said = json.dumps([_version(), size, list(texts)]).encode()
    file = home() / "tokenizers" / f"{hashlib.sha256(said).hexdigest()[:16]}.json"
    if not file.is_file():
        write_atomically(file, _trained(texts, size).encode())
    return BytePairs(file.read_text())


def _trained(texts: Sequence[str], size: int) -> str:
    library = _library()
    coder = library.Tokenizer(library.models.BPE())
    coder.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    coder.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=sorted(alphabet), show_progress=False
    )
    coder.train_from_iterator(texts, trainer)
    described: str = coder.to_str()
    return described


def _version() -> str:
    try:
        return version("tokenizers")
    except PackageNotFoundError as error:
        raise ValueError("data sets of text need the extra `text`: pip install 'kdbench[text]'") from error


def _library() -> Any:
    _version()
    import tokenizers

    return tokenizers
