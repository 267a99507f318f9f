"""Text to packed tokens on disk: flat shards, checksums, and a manifest that records every choice.

A data folder holds `manifest.json`, `tokenizer.json`, `train-00000.bin`, ... and `valid-00000.bin`, ...: little-endian
uint16 or uint32 tokens. The manifest's `packing` says what they are:

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
from collections.abc import Callable
from dataclasses import replace
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
from mcd.data.prepare.records import check_valid_last, tokenizer_of_text, units_of
from mcd.data.prepare.resume import PROGRESS, clear, finished, is_ours, locked, recorded
from mcd.data.prepare.shards import Damaged, ShardWriter
from mcd.data.prepare.workers import Unit, tokenised
from mcd.data.recipe import Recipe, preset_of
from mcd.data.special_tokens import GUESSED, TOKENIZER_CONFIG, end_of_text, frame_of
from mcd.data.tokenizer import load_tokenizer, tokenizer_sha256
from mcd.data.tokens import stamp
from mcd.errors import DataError
from mcd.files import atomic_file, write_json

SHARD_TOKENS = 1 << 28
LANGUAGE_TOKENS = {"train": 1 << 20, "valid": 1 << 16}
RECORD_S = 10.0
"""Seconds of work that a kill may cost."""
Update = Callable[[float | None, str], None]
"""Called with the share that is done, None where it is not known, and a remark."""


def prepare(
    recipe: Recipe,
    out: Path,
    shard_tokens: int = SHARD_TOKENS,
    workers: int = 1,
    update: Update = lambda fraction, note: None,
    record_s: float = RECORD_S,
    most_lost: float | None = None,
) -> dict[str, Any]:
    """Tokenise, split by document and pack the text of a recipe into `out`; returns the manifest.

    The manifest is written last, so that a folder with one is whole. One without, an interrupted run's, is continued:
    what was recorded (every `record_s` seconds) is checked and kept, and the shards are the same bytes as without the
    interruption, whatever the number of `workers` (processes that tokenise; a short text is tokenised in this one). A
    folder already prepared by the same recipe from the same text stays unchanged; one by another recipe or from text
    that changed since (finished or not), or one that holds something else, is refused with DataError.
    What the tokenizer loses of the text (`mcd.data.encoder`) is recorded in the manifest; more than the share
    `most_lost` (None: 1 % of tokens unknown, 0.1 % of characters dropped) is refused with DataError, and all work is
    kept: with a larger share the same call is done at once. Where another process prepares the folder, waits for it.

    Memory: O(workers x 1 MB), the longest document, and at the end 20 bytes per document (with dedup 32 all along).
    Raises DataError also for text that cannot be used, HubError and WorkFailed where the rest can be done later.
    """
    fingerprint = source_sha256(recipe)
    recipe, template_from = with_template(recipe) if recipe.packing == "rows" else (recipe, None)
    if (out / MANIFEST).is_file():
        return finished(recipe, out, fingerprint)
    if out.exists() and not (out.is_dir() and all(is_ours(path) for path in out.iterdir())):
        raise DataError(f"--out {out}: holds something else than prepared data; name a new folder")
    words = _words_of_language(recipe) if recipe.data in LANGUAGES else None
    with locked(out):
        if (out / MANIFEST).is_file():  # another process was here first
            return finished(recipe, out, fingerprint)
        purpose = {
            "format": FORMATS[-1],
            "recipe": recipe.identity(),
            "source_sha256": fingerprint,
            "shard_tokens": shard_tokens,
        }
        record = recorded(out, purpose, recipe)
        if words is not None:
            tokenizer, part = words, {"eos_id": None, "splits": _write_language(recipe, words, out, shard_tokens)}
        else:
            run = _Run.resumed(recipe, out, record) if record is not None else None
            update(None, "reading the text" if run is None else f"continuing behind {run.packer.taken:,} documents")
            run = run or _Run.started(recipe, out, purpose)
            tokenizer, part = run.tokenizer, run.finish(workers, update, record_s, most_lost)
        _check_enough(recipe, part)
        vocab_size = tokenizer.get_vocab_size()
        manifest = {
            "format": FORMATS[-1],
            "recipe": recipe.as_dict(),
            "packing": recipe.packing,
            "preset": preset_of(recipe, vocab_size),
            **({"template_from": template_from} if template_from else {}),
            "source_sha256": fingerprint,
            "vocab_size": vocab_size,
            "tokenizer_sha256": tokenizer_sha256(tokenizer),
            "dtype": _dtype(recipe, tokenizer).str,
            "frame": None,
            **part,
        }
        _save(tokenizer, out, manifest)
        write_json(out / MANIFEST, manifest)
        stamp(out, manifest)
        clear(out, manifest)
    return manifest


class _Run:
    """The work on a text from a `record` on, which says how far it is and by what tokenizer."""

    def __init__(self, recipe: Recipe, out: Path, tokenizer: Tokenizer, record: dict[str, Any], state: Any = None):
        self.recipe, self.out, self.tokenizer, self.record = recipe, out, tokenizer, record
        self.packer = Packer(recipe, out, _dtype(recipe, tokenizer), record["eos_id"], record["shard_tokens"], state)

    @classmethod
    def started(cls, recipe: Recipe, out: Path, purpose: dict[str, Any]) -> "_Run":
        """Work from the beginning, in a cleared folder."""
        from_hub = purpose["source_sha256"] is None and recipe.data not in BUNDLED
        commit = commit_of(recipe.data, recipe.revision) if from_hub else None
        tokenizer = tokenizer_of_text(_at_commit(recipe, commit))
        end = end_of_text(tokenizer, recipe.tokenizer, recipe.eos_token)
        frame = list(frame_of(tokenizer, recipe.tokenizer)) if recipe.frame and recipe.tokenizer is not None else None
        special = {"eos_id": end.id, "eos_from": end.source, "frame": frame}
        clear(out)
        _save(tokenizer, out, special)
        digest = tokenizer_sha256(tokenizer)
        record = {**purpose, **special, "commit": commit, "tokenizer_sha256": digest, "position": None}
        return cls(recipe, out, tokenizer, record)

    @classmethod
    def resumed(cls, recipe: Recipe, out: Path, record: dict[str, Any]) -> "_Run | None":
        """The work of an interrupted run; None when what it left is not as it recorded."""
        state = record.pop("packer")
        try:
            return cls(recipe, out, load_tokenizer(out), record, state)
        except (Damaged, KeyError, TypeError, AttributeError, ValueError):
            return None

    def finish(self, workers: int, update: Update, record_s: float, most_lost: float | None) -> dict[str, Any]:
        """Write the rest of the shards; returns the text's part of the manifest."""
        recipe, packer, record = self.recipe, self.packer, self.record
        left_out, seen = Counter(packer.left_out), Seen(map(int, packer.seen()) if recipe.dedup else ())
        pairs = Pairs(recipe, self.tokenizer, record["eos_id"]) if recipe.packing == "rows" else None
        units = units_of(_at_commit(recipe, record["commit"]), record["position"], pairs, left_out, seen)
        reader = self.tokenizer.to_str() if pairs is None else pairs.marks.reader()
        code = "H" if pairs is None and packer.dtype.itemsize == 2 else "I"
        encoded = tokenised(units, reader, code, workers, recipe.special_tokens)
        last = time.monotonic()
        with packer, contextlib.closing(units), contextlib.closing(encoded):
            for unit in encoded:
                if pairs is not None:
                    pairs.finish(unit)
                self._check_ends(unit)
                packer.add(unit)
                record["position"] = unit.position
                if time.monotonic() - last >= record_s:
                    self._keep()
                    last = time.monotonic()
                lost = f"; {packer.lost.summary}" if packer.lost.summary else ""
                update(unit.fraction and min(unit.fraction, 0.99), f"{packer.taken:,} documents{lost}")
            check_valid_last(recipe, packer.taken)
            if packer.lost.too_much(most_lost):
                self._keep()
                raise DataError(
                    f"--data {recipe.data}: {packer.lost.summary}; give a --tokenizer that knows them, or, where that "
                    "is meant, mcd prepare --most-lost with a larger share"
                )
            splits, duplicates = packer.close(), packer.copies()
        passed_over = files_of(recipe).record()
        return {
            "eos_id": record["eos_id"],
            "splits": splits,
            **({"source_commit": record["commit"]} if record["commit"] else {}),
            "left_out": dict(left_out),
            "duplicates": duplicates,
            "eos_from": record["eos_from"],
            "frame": record["frame"],
            "lost": dict(vars(packer.lost)),
            **({"passed_over": passed_over} if passed_over else {}),
            **({"counts": packer.counts} if recipe.packing == "rows" else {}),
        }

    def _keep(self) -> None:
        write_json(self.out / PROGRESS, {**self.record, "packer": self.packer.record()})
        self.packer.forget()

    def _check_ends(self, unit: Unit) -> None:
        """Raise DataError where a document spells the end of text and the tokenizer can read it in no other way."""
        eos_id = self.record["eos_id"]
        if self.recipe.packing != "rows" and not self.recipe.special_tokens and (unit.ids == eos_id).any():
            raise DataError(
                f"--data {self.recipe.data}: a document spells {self.tokenizer.id_to_token(eos_id)}, which is a word "
                "to this tokenizer and would end the text there; take it out, or, where that is meant, give "
                "--special-tokens"
            )


def _check_enough(recipe: Recipe, part: dict[str, Any]) -> None:
    """Raise DataError for a split that is too short: of two rows, so that a moving row border leaves one."""
    for split, shards in part["splits"].items():
        tokens = sum(shard["tokens"] for shard in shards)
        if tokens >= (1 if recipe.packing == "rows" else 2 * recipe.length):
            continue
        if left_out := part.get("counts", {}).get(split, {}).get("dropped", 0):
            raise DataError(
                f"--data {recipe.data}: all {left_out} {split} records are longer than a row of "
                f"{recipe.length} tokens; give a larger --length, or --too-long cut where prompts are long"
            )
        if recipe.packing == "rows":
            raise DataError(f"--data {recipe.data}: no {split} records; give more, or another --valid-every")
        more = ", or hold out more by a smaller --valid-every" if split == "valid" and not recipe.valid_last else ""
        raise DataError(
            f"--data {recipe.data}: only {tokens} {split} tokens, too few for two rows of --length {recipe.length}; "
            f"give more text (documents in a .txt are separated by blank lines) or a smaller --length{more}"
        )


def _at_commit(recipe: Recipe, commit: str | None) -> Recipe:
    return recipe if commit is None else replace(recipe, revision=commit)


def _save(tokenizer: Tokenizer, out: Path, special: dict[str, Any]) -> None:
    """Write the tokenizer, and next to it which of its tokens are special, where a file named them."""
    with atomic_file(out / "tokenizer.json") as partial:
        tokenizer.save(str(partial))
    ids = dict(zip(("cls_token", "sep_token"), special.get("frame") or (), strict=False))
    if special.get("eos_from", GUESSED) != GUESSED or ids:
        names = {kind: tokenizer.id_to_token(i) for kind, i in {"eos_token": special["eos_id"], **ids}.items()}
        write_json(out / TOKENIZER_CONFIG, {"tokenizer_class": "PreTrainedTokenizerFast", **names})


def _dtype(recipe: Recipe, tokenizer: Tokenizer) -> np.dtype:
    most = max(tokenizer.get_vocab_size(), recipe.length if recipe.packing == "rows" else 0)
    return np.dtype("<u2") if most < 2**16 else np.dtype("<u4")


def _words_of_language(recipe: Recipe) -> Tokenizer:
    """The words of a language as a tokenizer. Raises DataError for choices that it has no use for."""
    ends = {"--wrap": recipe.wrap, "--frame": recipe.frame, "--eos-token": recipe.eos_token is not None}
    ends |= {"--prompt-field": recipe.packing == "rows"}
    if option := next((option for option, given in ends.items() if given), None):
        raise DataError(f"{option}: --data {recipe.data} is one stream, with no end-of-text token")
    words = LANGUAGES[recipe.data]().tokenizer()
    given = words if recipe.tokenizer is None else load_tokenizer(recipe.tokenizer)
    if tokenizer_sha256(given) != tokenizer_sha256(words):
        raise DataError(f"--tokenizer {recipe.tokenizer}: --data {recipe.data} has its own tokens; leave it out")
    return words


def _write_language(recipe: Recipe, words: Tokenizer, out: Path, shard_tokens: int) -> dict[str, list[dict[str, Any]]]:
    """Write one long stream of a language for each split; returns its shards."""
    clear(out)
    splits = {}
    for seed, (split, tokens) in enumerate(LANGUAGE_TOKENS.items(), start=1):
        writer = ShardWriter(out, split, _dtype(recipe, words), shard_tokens)
        stream = LANGUAGES[recipe.data]().sample_rows(1, tokens, torch.Generator().manual_seed(seed))
        writer.add(stream[0].numpy())
        splits[split] = writer.close()
    return splits
