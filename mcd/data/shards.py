"""Packed tokens on disk: flat memory-mapped shards, checksums, and a manifest that records every choice.

A data folder holds `manifest.json`, `tokenizer.json`, `train-00000.bin`, ... and `valid-00000.bin`, ...: little-endian
uint16 or uint32 tokens, documents one after the other, <|endoftext|> behind each. Rows are cut by the loader.
The split of a language (`mcd.data.language`) is one long stream, and its manifest's eos_id is null.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from tokenizers import Tokenizer

from mcd.data.corpus import DataError, documents, file_sha256, source_sha256
from mcd.data.language import LANGUAGES
from mcd.data.token_ids import check_ids
from mcd.data.tokenizer import eos_id_of, load_tokenizer, tokenizer_sha256, train_bpe, word_tokenizer

MANIFEST = "manifest.json"
SHARD_TOKENS = 1 << 28
LANGUAGE_TOKENS = {"train": 1 << 20, "valid": 1 << 16}
_OWN_FILE = re.compile(r"(train|valid)-\d{5}\.bin|tokenizer\.json|manifest\.json\.partial")


@dataclass(frozen=True)
class Recipe:
    """How text becomes tokens. `valid_every`: each so many-th document is held out (document 0 first).

    wrap: rows begin and end with <|endoftext|>, as in MDLM; else they are cut from the stream as it is.
    A language has its own tokens and two streams: of these choices it takes `length` alone.
    """

    source: str
    text_field: str = "text"
    tokenizer: str | None = None
    vocab_size: int = 4096
    length: int = 128
    wrap: bool = False
    valid_every: int = 16


def prepare(recipe: Recipe, out: Path, shard_tokens: int = SHARD_TOKENS) -> dict[str, Any]:
    """Tokenise, split by document and pack `recipe.source` into `out`; returns the manifest.

    The manifest is written last, so that a folder with one is whole; one without (an interrupted run's) is written
    anew. A folder already prepared by the same recipe from the same text is left as it is; one by another recipe or
    from text that changed since, or one that holds something else, is refused with DataError.
    """
    fingerprint = source_sha256(recipe.source)
    if (out / MANIFEST).is_file():
        manifest = read_manifest(out)
        if not _same(recipe, manifest):
            raise DataError(f"--out {out}: holds data of another recipe; name a new folder")
        if manifest.get("source_sha256") != fingerprint:
            raise DataError(f"--out {out}: the text of --data {recipe.source} changed since; name a new folder")
        return manifest
    if out.exists() and not (out.is_dir() and all(_OWN_FILE.fullmatch(path.name) for path in out.iterdir())):
        raise DataError(f"--out {out}: holds something else than prepared data; name a new folder")
    if recipe.valid_every < 2:
        raise DataError(f"--valid-every {recipe.valid_every}: must be at least 2")
    if recipe.length < (3 if recipe.wrap else 1):
        raise DataError(f"--length {recipe.length}: must be at least {3 if recipe.wrap else 1}")
    tokenizer, eos_id, pieces = _language(recipe) if recipe.source in LANGUAGES else _text(recipe)
    vocab_size = tokenizer.get_vocab_size()
    dtype = np.dtype("<u2") if vocab_size < 2**16 else np.dtype("<u4")
    out.mkdir(parents=True, exist_ok=True)
    writers = {split: _ShardWriter(out, split, dtype, shard_tokens) for split in ("train", "valid")}
    for ids, split in pieces:
        writers[split].add(ids)
    splits = {split: writer.close() for split, writer in writers.items()}
    for split, shards in splits.items():
        tokens = sum(shard["tokens"] for shard in shards)
        if tokens < 2 * recipe.length:
            raise DataError(
                f"--data {recipe.source}: only {tokens} {split} tokens, too few for rows of {recipe.length}; "
                "give more text (documents in a .txt are parted by blank lines) or a smaller --length"
            )
    tokenizer.save(str(out / "tokenizer.json"))
    manifest = {
        "format": "mcd-data-1",
        "recipe": asdict(recipe),
        "source_sha256": fingerprint,
        "vocab_size": vocab_size,
        "eos_id": eos_id,
        "tokenizer_sha256": tokenizer_sha256(tokenizer),
        "dtype": dtype.str,
        "splits": splits,
    }
    partial = out / f"{MANIFEST}.partial"
    partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    partial.replace(out / MANIFEST)
    return manifest


def _text(recipe: Recipe) -> tuple[Tokenizer, int, Iterator[tuple[list[int], str]]]:
    """The tokenizer of a text, its end-of-text id, and (ids, split) of every document."""
    if len(list(islice(documents(recipe.source, recipe.text_field), 2))) < 2:
        raise DataError(
            f"--data {recipe.source}: one document cannot be split into train and held-out text; "
            "give more (documents in a .txt are parted by blank lines)"
        )
    if recipe.tokenizer is not None:
        tokenizer = load_tokenizer(recipe.tokenizer)
    else:
        train_texts = (text for text, valid in _split_documents(recipe) if not valid)
        tokenizer = train_bpe(train_texts, recipe.vocab_size)
    check_ids(tokenizer, f"--tokenizer {recipe.tokenizer}", tokenizer.get_vocab_size())
    eos_id = eos_id_of(tokenizer)
    pieces = (
        ([*tokenizer.encode(text, add_special_tokens=False).ids, eos_id], "valid" if valid else "train")
        for text, valid in _split_documents(recipe)
    )
    return tokenizer, eos_id, pieces


def _language(recipe: Recipe) -> tuple[Tokenizer, None, Iterator[tuple[list[int], str]]]:
    """The words of a language as a tokenizer, no end of text, and (ids, split) of its two streams."""
    language = LANGUAGES[recipe.source]()
    if recipe.wrap:
        raise DataError(f"--wrap: --data {recipe.source} has no end-of-text token")
    tokenizer = word_tokenizer(language.symbols)
    given = tokenizer if recipe.tokenizer is None else load_tokenizer(recipe.tokenizer)
    if tokenizer_sha256(given) != tokenizer_sha256(tokenizer):
        raise DataError(f"--tokenizer {recipe.tokenizer}: --data {recipe.source} has its own words; leave it out")
    streams = (
        (language.sample_rows(1, tokens, torch.Generator().manual_seed(seed))[0].tolist(), split)
        for seed, (split, tokens) in enumerate(LANGUAGE_TOKENS.items(), start=1)
    )
    return tokenizer, None, streams


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder. Raises DataError when there is none, or it is damaged or of another format."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"--data {folder}: no {MANIFEST}; prepare it first: mcd prepare --data TEXT --out {folder}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        manifest = {}
    if not _is_whole(manifest):
        raise DataError(f"--data {folder}: {MANIFEST} is damaged or of another format; prepare the data again")
    return manifest


def _is_whole(manifest: Any) -> bool:
    """Is it a manifest, with every value that is read later, each of its kind?"""
    kinds = get_type_hints(Recipe)
    try:
        recipe, splits = manifest["recipe"], manifest["splits"]
        return (
            manifest["format"] == "mcd-data-1"
            and recipe.keys() == kinds.keys()
            and all(isinstance(recipe[name], kind) for name, kind in kinds.items())
            and manifest["dtype"] in ("<u2", "<u4")
            and isinstance(manifest["vocab_size"], int)
            and _is_whole_eos_id(manifest["eos_id"], manifest["vocab_size"])
            and isinstance(manifest["tokenizer_sha256"], str)
            and all(splits[split] for split in ("train", "valid"))
            and all(_is_whole_shard(shard) for shards in splits.values() for shard in shards)
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _is_whole_eos_id(eos_id: Any, vocab_size: int) -> bool:
    return eos_id is None or (isinstance(eos_id, int) and 0 <= eos_id < vocab_size)


def _is_whole_shard(shard: dict[str, Any]) -> bool:
    return (
        _OWN_FILE.fullmatch(shard["file"]) is not None
        and isinstance(shard["tokens"], int)
        and shard["tokens"] >= 1
        and isinstance(shard["documents"], int)
        and isinstance(shard["sha256"], str)
    )


def read_tokens(folder: Path, split: str, verify: bool = True) -> np.ndarray:
    """The token stream of a split, memory-mapped (joined in memory when it has several shards), (N,) unsigned.

    Checks each shard's size and, with `verify`, its SHA-256 and that its tokens are of the vocabulary. Raises
    DataError when one is damaged.
    """
    manifest = read_manifest(folder)
    parts = []
    for shard in manifest["splits"][split]:
        path = folder / shard["file"]
        expected_bytes = shard["tokens"] * np.dtype(manifest["dtype"]).itemsize
        if not path.is_file() or path.stat().st_size != expected_bytes:
            raise DataError(f"{path}: missing or truncated; prepare the data again")
        if verify and file_sha256(path) != shard["sha256"]:
            raise DataError(f"{path}: its checksum differs from the manifest's; prepare the data again")
        tokens = np.memmap(path, dtype=manifest["dtype"], mode="r")
        if verify and tokens.max() >= manifest["vocab_size"]:
            raise DataError(
                f"{path}: tokens beyond the manifest's vocab_size; {MANIFEST} is damaged, prepare the data again"
            )
        parts.append(tokens)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer stored with prepared data."""
    return load_tokenizer(str(folder))


def _same(recipe: Recipe, manifest: dict[str, Any]) -> bool:
    """Was the folder made by this recipe? A tokenizer is known by what it does, not by where it lies."""
    made = Recipe(**manifest["recipe"])
    if recipe.tokenizer is None or made.tokenizer is None:
        return made == recipe
    same_tokenizer = tokenizer_sha256(load_tokenizer(recipe.tokenizer)) == manifest["tokenizer_sha256"]
    return same_tokenizer and replace(made, tokenizer=recipe.tokenizer) == recipe


def _split_documents(recipe: Recipe) -> Iterator[tuple[str, bool]]:
    for index, text in enumerate(documents(recipe.source, recipe.text_field)):
        yield text, index % recipe.valid_every == 0


class _ShardWriter:
    """Appends tokens to numbered files of at most `shard_tokens` tokens, give or take one document."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype, shard_tokens: int):
        self.folder, self.split, self.dtype, self.shard_tokens = folder, split, dtype, shard_tokens
        self.shards: list[dict[str, Any]] = []
        self.file = None

    def add(self, ids: list[int]) -> None:
        if self.file is None:
            name = f"{self.split}-{len(self.shards):05d}.bin"
            self.file = (self.folder / name).open("wb")
            self.shards.append({"file": name, "tokens": 0, "documents": 0})
        self.file.write(np.asarray(ids, dtype=self.dtype).tobytes())
        self.shards[-1]["tokens"] += len(ids)
        self.shards[-1]["documents"] += 1
        if self.shards[-1]["tokens"] >= self.shard_tokens:
            self._finish()

    def _finish(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None
            self.shards[-1]["sha256"] = file_sha256(self.folder / self.shards[-1]["file"])

    def close(self) -> list[dict[str, Any]]:
        self._finish()
        return self.shards
