"""Small tokenizers of the families that models come with, trained on the spot."""

import json
from functools import lru_cache

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mcd.data.encoder import text_tokenizer

TEXTS = (
    "The house by the river is old. Fellow citizens, peace and war; the singing man's stone house: 12 men in 1862.",
    "é and ☃ are letters, 😀 is one too; don't be late\n\nA new paragraph\nand a line\twith a tab",
    "riverstone, giggle, goggle, singing, making and taking",
) * 20
_SPACED = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


def _bpe(pre, decoder, normalizer=None, byte_fallback=False, special=(), **options) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=byte_fallback, unk_token=options.pop("unk", None)))
    if pre is not None:
        tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoder
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=700, show_progress=False, special_tokens=list(special), **options)
    )
    return tokenizer


def byte_level(add_prefix_space: bool = False) -> Tokenizer:
    """GPT-2's and RoBERTa's."""
    pre = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    return _bpe(pre, decoders.ByteLevel(), initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def llama3() -> Tokenizer:
    """Llama 3's: its pattern gives a word any one sign before it, and joins new lines."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    pre = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return _bpe(pre, decoders.ByteLevel(), initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def metaspace(scheme: str) -> Tokenizer:
    """SentencePiece's BPE in today's form."""
    pre, decoder = pre_tokenizers.Metaspace(prepend_scheme=scheme), decoders.Metaspace(prepend_scheme=scheme)
    return _bpe(pre, decoder, special=["<unk>"], unk="<unk>")


def llama2() -> Tokenizer:
    """Llama 2's: no words, the space before the text is the normalizer's, unknown characters are bytes."""
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    decoder = decoders.Sequence([_SPACED, decoders.Strip(" ", 1, 0)])
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.decoder = normalizer, decoder
    # in training words are parted, as SentencePiece does; in use they are not
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    signs = ["<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, show_progress=False, special_tokens=signs, limit_alphabet=60)
    tokenizer.train_from_iterator(TEXTS, trainer)
    parts = json.loads(tokenizer.to_str())
    parts["pre_tokenizer"] = None
    parts["added_tokens"] = parts["added_tokens"][:1]
    return Tokenizer.from_str(json.dumps(parts))


def unigram(words: bool = False) -> Tokenizer:
    """T5's, and with `words` XLM-R's, which keeps no white space but that between words."""
    tokenizer = Tokenizer(models.Unigram())
    meta = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), meta]) if words else meta
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=300, show_progress=False, special_tokens=["<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def wordpiece(lowercase: bool) -> Tokenizer:
    """BERT's, uncased and cased."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=400, show_progress=False, special_tokens=special)
    )
    return tokenizer


def end_of_word() -> Tokenizer:
    """CLIP's kind: `</w>` ends a word."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=500, show_progress=False, end_of_word_suffix="</w>", special_tokens=["<unk>"]
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


FAMILIES = {
    "byte-level": byte_level,
    "byte-level, prefix space": lambda: byte_level(True),
    "llama3": llama3,
    "metaspace first": lambda: metaspace("first"),
    "metaspace always": lambda: metaspace("always"),
    "metaspace never": lambda: metaspace("never"),
    "llama2": llama2,
    "unigram": unigram,
    "unigram of words": lambda: unigram(True),
    "wordpiece, uncased": lambda: wordpiece(True),
    "wordpiece, cased": lambda: wordpiece(False),
    "end of word": end_of_word,
}


@lru_cache
def _family(name: str) -> Tokenizer:
    """A tokenizer as `load_tokenizer` gives it."""
    return text_tokenizer(FAMILIES[name]().to_str())


@pytest.fixture(scope="session")
def family():
    """The tokenizer of a family by its name."""
    return _family


@pytest.fixture(scope="session", params=FAMILIES)
def each_family(request) -> str:
    """The name of each family in turn."""
    return request.param
