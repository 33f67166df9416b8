"""Folders as transformers and MiniLLM have them, made here: tiny networks with a tokenizer, instructions in files."""

import json
from functools import cache
from pathlib import Path

import torch

from kdbench.data.text.rationale_files import RationaleExample, read_split

END = "<|endoftext|>"


@cache
def rows(split: str) -> list[RationaleExample]:
    """SVAMP's, which are shipped."""
    return read_split("svamp", split, None) or []


def save_tokenizer(folder: Path, vocabulary: int = 500) -> int:
    """A byte-level tokenizer as GPT-2's; the number of its words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(
        [text for row in rows("train") for text in (row.input, row.rationale)], trainer
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END).save_pretrained(folder)
    return tokenizer.get_vocab_size()


def save_gpt2(folder: Path, width: int = 32, vocabulary: int = 500) -> Path:
    """Two layers of GPT-2 with random weights, and their tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    words = save_tokenizer(folder, vocabulary)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=words, n_positions=256, n_embd=width, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def save_llama(folder: Path) -> Path:
    """A family with a last layer of its own, and more words than its tokenizer has."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words = save_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=words + 12,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def save_instructions(folder: Path, train: int = 60, test: int = 6) -> Path:
    """SVAMP's questions as instructions, in the folders of MiniLLM's data; the one called dolly."""
    asked = [{"instruction": row.input, "input": "", "output": row.rationale} for row in rows("train")]
    whole = [{"prompt": row.input + "\n", "output": [row.rationale, row.label]} for row in rows("test")]
    files = {
        "dolly/raw.jsonl": asked[:train],
        "dolly/valid.jsonl": [{**one, "input": "in numbers"} for one in asked[train : train + test]],
        **{f"{name}/valid.jsonl": whole[:test] for name in ("self-inst", "vicuna", "sinst/11_", "uinst/11_")},
    }
    for name, found in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in found))
    return folder / "dolly"


def save_t5(folder: Path, tied: bool = True) -> Path:
    """A tiny T5, as version 1.1 where it is not tied, and a tokenizer with T5's marks."""
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    from kdbench.data.text.tokenizers import EOS, PAD, UNKNOWN, train_tokenizer

    tokenizer = train_tokenizer([text for row in rows("train") for text in (row.input, row.rationale)], 400)
    marks = {"pad_token": PAD, "eos_token": EOS, "unk_token": UNKNOWN}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 2}
    words = tokenizer.get_vocab_size() + 8
    config = T5Config(vocab_size=words, decoder_start_token_id=0, tie_word_embeddings=tied, **sizes)
    network = T5ForConditionalGeneration(config)
    if not tied:
        network.lm_head.weight.data.normal_()
    network.save_pretrained(folder)
    return folder
