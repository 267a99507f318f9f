"""Packed tokens on disk: flat memory-mapped shards, checksums, and a manifest that records every choice.

A data folder holds `manifest.json`, `tokenizer.json`, `train-00000.bin`, ... and `valid-00000.bin`, ...: little-endian
uint16 or uint32 tokens. The manifest's `packing` says how they lie:

stream: documents one after the other, <|endoftext|> behind each; rows are cut by the loader.
groups: the same without what does not fill a row in each group of documents (MDLM's), so that the rows a wrapping
loader cuts are MDLM's own.
rows: prompts and answers, a row each: where what is learnt begins and ends, then the tokens, padded.

The split of a language (`mcd.data.languages.known`) is one long stream, and its manifest's eos_id is null.
While a folder is prepared it also holds `progress.json`, shards named `.partial`, and held-*.bin.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from mcd.data.chat import with_template
from mcd.data.languages.known import LANGUAGES
from mcd.data.manifest import FORMATS, MANIFEST
from mcd.data.prepare.corpus import BUNDLED, files_of, source_sha256
from mcd.data.prepare.duplicates import Seen
from mcd.data.prepare.hub import commit_of
from mcd.data.prepare.instructions import Pairs
from mcd.data.prepare.packer import Packer
from mcd.data.prepare.records import check_valid_last, source_of, tokenizer_of_text, units_of
from mcd.data.prepare.resume import PROGRESS, clear, finished, is_ours, locked, purpose_of, recorded
from mcd.data.prepare.shards import PARTIAL, Damaged, ShardWriter
from mcd.data.prepare.workers import Unit, tokenised
from mcd.data.recipe import Recipe, preset_of
from mcd.data.special_tokens import GUESSED, NOTES, end_of_text, frame_of
from mcd.data.tokenizer import load_tokenizer, tokenizer_sha256, word_tokenizer
from mcd.data.tokens import stamp
from mcd.errors import DataError
from mcd.files import write_json

SHARD_TOKENS = 1 << 28
LANGUAGE_TOKENS = {"train": 1 << 20, "valid": 1 << 16}
RECORD_S = 10.0
"""Seconds of work that a kill may cost."""
Tell = Callable[[float | None, str], None]


def prepare(
    recipe: Recipe,
    out: Path,
    shard_tokens: int = SHARD_TOKENS,
    workers: int = 1,
    tell: Tell = lambda fraction, note: None,
    record_s: float = RECORD_S,
    most_lost: float | None = None,
) -> dict[str, Any]:
    """Tokenise, split by document and pack `recipe.source` into `out`; returns the manifest.

    The manifest is written last, so that a folder with one is whole. One without, an interrupted run's, is gone on
    with: what was recorded (every `record_s` seconds) is checked and kept, and the shards are the same bytes as
    without the interruption, whatever the number of `workers` (processes that tokenise; few texts are done in this
    one). A folder already prepared by the same recipe from the same text is left as it is; one by another recipe or
    from text that changed since (finished or not), or one that holds something else, is refused with DataError.
    What the tokenizer loses of the text (`mcd.data.encoder`) is recorded in the manifest; more than the share
    `most_lost` (None: 1 % of tokens unknown, 0.1 % of characters dropped) is refused with DataError, and all work is
    kept: with a larger share the same call is done at once. tell(fraction, note) is called as it goes. Where another
    process prepares the folder, waits for it.

    Memory: O(workers x 1 MB), the longest document, and at the end 20 bytes a document (with dedup 32 all along).
    Raises DataError also for text that cannot be used, HubStopped and WorkerDied where the rest can be done later.
    """
    fingerprint = source_sha256(source_of(recipe))
    recipe, template_from = with_template(recipe) if recipe.packing == "rows" else (recipe, None)
    if (out / MANIFEST).is_file():
        return finished(recipe, out, fingerprint)
    if out.exists() and not (out.is_dir() and all(is_ours(path) for path in out.iterdir())):
        raise DataError(f"--out {out}: holds something else than prepared data; name a new folder")
    recipe.check()
    tokenizer, streams = _language(recipe) if recipe.source in LANGUAGES else (None, None)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        if (out / MANIFEST).is_file():  # another process was here first
            return finished(recipe, out, fingerprint)
        purpose = purpose_of(recipe, fingerprint, shard_tokens)
        record = recorded(out, purpose, recipe.tokenizer)
        if tokenizer is not None and streams is not None:
            manifest = {"eos_id": None, "splits": _write(streams, tokenizer, out, shard_tokens)}
        else:
            manifest, tokenizer = _prepare_text(recipe, out, purpose, record, workers, tell, record_s, most_lost)
        for split, shards in manifest["splits"].items():
            tokens = sum(shard["tokens"] for shard in shards)
            if tokens < (1 if recipe.packing == "rows" else 2 * recipe.length):
                left_out = manifest.get("counts", {}).get(split, {}).get("dropped", 0)
                if left_out:
                    raise DataError(
                        f"--data {recipe.source}: all {left_out} {split} records are longer than a row of "
                        f"{recipe.length} tokens; give a larger --length, or --too-long cut where prompts are long"
                    )
                raise DataError(
                    f"--data {recipe.source}: only {tokens} {split} tokens, too few for rows of {recipe.length}; "
                    "give more text (documents in a .txt are parted by blank lines) or a smaller --length"
                )
        vocab_size = tokenizer.get_vocab_size()
        manifest = {
            "format": FORMATS[-1],
            "recipe": asdict(recipe),
            "packing": recipe.packing,
            "preset": preset_of(recipe, vocab_size),
            **({"template_from": template_from} if template_from else {}),
            "source_sha256": fingerprint,
            "vocab_size": vocab_size,
            "tokenizer_sha256": tokenizer_sha256(tokenizer),
            "dtype": _dtype(recipe, tokenizer).str,
            "frame": None,
            **manifest,
        }
        _save(tokenizer, out, manifest)
        write_json(out / MANIFEST, manifest)
        stamp(out, manifest)
        clear(out, manifest)
    return manifest


def _prepare_text(
    recipe: Recipe,
    out: Path,
    purpose: dict[str, Any],
    record: dict[str, Any] | None,
    workers: int,
    tell: Tell,
    record_s: float,
    most_lost: float | None,
) -> tuple[dict[str, Any], Tokenizer]:
    """Write the shards of a text, from a `record` on; returns its part of the manifest, and the tokenizer."""
    work = None if record is None else _taken_up(recipe, out, record)
    tell(None, "reading the text" if work is None else f"going on behind {work[2].taken:,} documents")
    record, tokenizer, packer = work or _begun(recipe, out, purpose)
    eos_id, commit = record["eos_id"], record["commit"]
    left_out, seen = Counter(packer.left_out), Seen(map(int, packer.seen()) if recipe.dedup else ())
    pairs = Pairs(recipe, tokenizer, eos_id) if recipe.packing == "rows" else None
    units = units_of(_pinned(recipe, commit), record["position"], pairs, left_out, seen)
    reader, dtype = (tokenizer.to_str(), packer.dtype) if pairs is None else (pairs.marks.reader(), np.dtype("<u4"))
    encoded = tokenised(units, reader, dtype, workers, recipe.special_tokens)
    last, position = time.monotonic(), record["position"]

    def keep() -> None:
        write_json(out / PROGRESS, {**record, "position": position, "packer": packer.record()})
        packer.forget()

    with packer, contextlib.closing(units), contextlib.closing(encoded):
        for unit in encoded:
            if pairs is not None:
                pairs.finish(unit)
            _check_ends(recipe, unit, tokenizer, eos_id)
            packer.add(unit)
            position = unit.position
            if time.monotonic() - last >= record_s:
                keep()
                last = time.monotonic()
            lost = f"; {packer.lost.told}" if packer.lost.told else ""
            tell(unit.fraction and min(unit.fraction, 0.99), f"{packer.taken:,} documents{lost}")
        check_valid_last(recipe, packer.taken)
        if packer.lost.too_much(most_lost):
            keep()
            raise DataError(
                f"--data {recipe.source}: {packer.lost.told}; give a --tokenizer that knows them, or, where that is "
                "meant, mcd prepare --most-lost with a larger share"
            )
        splits, duplicates = packer.close(), packer.copies()
    more: dict[str, Any] = {"source_commit": commit} if commit else {}
    more |= {"left_out": dict(left_out), "duplicates": duplicates}
    more |= {"eos_from": record["eos_from"], "frame": record["frame"], "lost": packer.lost.as_dict()}
    passed_over = files_of(source_of(recipe)).record()
    if passed_over:
        more["passed_over"] = passed_over
    if recipe.packing == "rows":
        more["counts"] = packer.counts
    return {"eos_id": eos_id, "splits": splits, **more}, tokenizer


Work = tuple[dict[str, Any], Tokenizer, Packer]
"""What is recorded of a run, its tokenizer, and what it goes on with."""


def _taken_up(recipe: Recipe, out: Path, record: dict[str, Any]) -> Work | None:
    """The work of an interrupted run; None when what it left is not as it recorded."""
    tokenizer, state = load_tokenizer(out), record.pop("packer")
    try:
        return record, tokenizer, _packer(recipe, out, tokenizer, record, state)
    except (Damaged, KeyError, TypeError, AttributeError, ValueError):
        return None


def _begun(recipe: Recipe, out: Path, purpose: dict[str, Any]) -> Work:
    """Work from the beginning, in a cleared folder."""
    hub = purpose["source_sha256"] is None and recipe.source not in BUNDLED
    commit = commit_of(recipe.source, recipe.revision) if hub else None
    tokenizer = tokenizer_of_text(_pinned(recipe, commit))
    end = end_of_text(tokenizer, recipe.tokenizer, recipe.eos_token)
    special = {"eos_id": end.id, "eos_from": end.source, "frame": _frame(recipe, tokenizer)}
    clear(out)
    _save(tokenizer, out, special)
    record = {**purpose, **special, "commit": commit, "tokenizer_sha256": tokenizer_sha256(tokenizer), "position": None}
    return record, tokenizer, _packer(recipe, out, tokenizer, record, None)


def _frame(recipe: Recipe, tokenizer: Tokenizer) -> list[int] | None:
    """The tokens around a row, if there are to be any."""
    return list(frame_of(tokenizer, recipe.tokenizer)) if recipe.frame and recipe.tokenizer is not None else None


def _check_ends(recipe: Recipe, unit: Unit, tokenizer: Tokenizer, eos_id: int) -> None:
    """Raise DataError where a document spells the end of text, and the tokenizer can read its name as nothing else."""
    if recipe.packing != "rows" and not recipe.special_tokens and unit.ids is not None and (unit.ids == eos_id).any():
        raise DataError(
            f"--data {recipe.source}: a document spells {tokenizer.id_to_token(eos_id)}, which is a word to this "
            "tokenizer and would end the text there; take it out, or, where that is meant, give --special-tokens"
        )


def _packer(recipe: Recipe, out: Path, tokenizer: Tokenizer, record: dict[str, Any], state: Any) -> Packer:
    return Packer(recipe, out, _dtype(recipe, tokenizer), record["eos_id"], record["shard_tokens"], state)


def _pinned(recipe: Recipe, commit: str | None) -> Recipe:
    return recipe if commit is None else replace(recipe, revision=commit)


def _save(tokenizer: Tokenizer, out: Path, special: dict[str, Any]) -> None:
    """Write the tokenizer, and beside it, where that was not guessed, which of its tokens `special` says they are."""
    path = out / "tokenizer.json"
    tokenizer.save(f"{path}{PARTIAL}")
    path.with_name(f"{path.name}{PARTIAL}").replace(path)
    ids = dict(zip(("cls_token", "sep_token"), special.get("frame") or (), strict=False))
    if special.get("eos_from", GUESSED) != GUESSED or ids:
        names = {kind: tokenizer.id_to_token(i) for kind, i in {"eos_token": special["eos_id"], **ids}.items()}
        write_json(out / NOTES[0], {"tokenizer_class": "PreTrainedTokenizerFast", **names})


def _dtype(recipe: Recipe, tokenizer: Tokenizer) -> np.dtype:
    most = max(tokenizer.get_vocab_size(), recipe.length if recipe.packing == "rows" else 0)
    return np.dtype("<u2") if most < 2**16 else np.dtype("<u4")


def _write(
    streams: Iterator[tuple[np.ndarray, str]], tokenizer: Tokenizer, out: Path, shard_tokens: int
) -> dict[str, list[dict[str, Any]]]:
    clear(out)
    dtype = np.dtype("<u2") if tokenizer.get_vocab_size() < 2**16 else np.dtype("<u4")
    writers = {split: ShardWriter(out, split, dtype, shard_tokens) for split in LANGUAGE_TOKENS}
    for ids, split in streams:
        writers[split].add(ids)
    return {split: writer.close() for split, writer in writers.items()}


def _language(recipe: Recipe) -> tuple[Tokenizer, Iterator[tuple[np.ndarray, str]]]:
    """The words of a language as a tokenizer, and (ids, split) of its two streams."""
    language = LANGUAGES[recipe.source]()
    ends = {"--wrap": recipe.wrap, "--frame": recipe.frame, "--eos-token": recipe.eos_token is not None}
    ends |= {"--prompt-field": recipe.packing == "rows"}
    if option := next((option for option, given in ends.items() if given), None):
        raise DataError(f"{option}: --data {recipe.source} has no end-of-text token")
    tokenizer = word_tokenizer(language.symbols)
    given = tokenizer if recipe.tokenizer is None else load_tokenizer(recipe.tokenizer)
    if tokenizer_sha256(given) != tokenizer_sha256(tokenizer):
        raise DataError(f"--tokenizer {recipe.tokenizer}: --data {recipe.source} has its own words; leave it out")
    return tokenizer, (
        (language.sample_rows(1, tokens, torch.Generator().manual_seed(seed))[0].numpy(), split)
        for seed, (split, tokens) in enumerate(LANGUAGE_TOKENS.items(), start=1)
    )
