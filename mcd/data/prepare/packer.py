"""Tokenised records to shards: the split of each record, and its layout there."""

import hashlib
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcd.data.encoder import Lost
from mcd.data.prepare.duplicates import NO_TEXT, count_copies
from mcd.data.prepare.shards import PARTIAL, Damaged, ShardWriter
from mcd.data.prepare.workers import Unit
from mcd.data.recipe import Recipe

SPLITS = ("train", "valid")


class Packer:
    """Takes units in order and writes the shards of both splits into `folder`; the bytes are a function of the units.

    state: what `record` gave, to continue from there. Raises Damaged when what was written is not as recorded.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        dtype: np.dtype,
        eos_id: int,
        shard_tokens: int,
        state: dict[str, Any] | None = None,
    ):
        self.recipe, self.folder, self.dtype = recipe, folder, dtype
        self.eos = np.array([eos_id], dtype)
        state = state or {}
        shards = state.get("shards", {})
        self.writers = {s: ShardWriter(folder, s, dtype, shard_tokens, shards.get(s)) for s in SPLITS}
        self.rests = {s: np.array(state.get("rests", {}).get(s, []), dtype) for s in SPLITS}
        """Tokens of a group's last documents that do not yet fill a row."""
        self.grouped: dict[str, int] = dict(state.get("grouped", dict.fromkeys(SPLITS, 0)))
        self.counts: dict[str, dict[str, int]] = state.get("counts", {s: {"dropped": 0, "cut": 0} for s in SPLITS})
        self.lost = Lost(**state.get("lost", {}))
        """What the tokenizer lost of the records so far."""
        self.records: int = state.get("records", 0)
        """Records that have their place."""
        self.units: int = state.get("units", 0)
        self.held: deque[dict[str, Any]] = deque(state.get("held", []))
        """Units that may yet be held out (valid_last), which wait on disk."""
        self.waiting = sum(held["records"] for held in self.held)
        self.left_out: dict[str, int] = state.get("left_out", {})
        """Records that were left out before, by reason."""
        self.keys = ShardWriter(folder, "keys", np.dtype("<u8"), 1 << 62, state.get("keys"))
        """The key of each record, in order."""
        if sum(shard["tokens"] for shard in self.keys.shards) != self.taken:
            raise Damaged
        self.unsynced: list[Path] = []
        self.released: list[Path] = []
        for held in self.held:
            self._load(held)

    def add(self, unit: Unit) -> None:
        """Take the next unit."""
        assert unit.lost is not None
        self.lost.add(unit.lost)
        if not self.recipe.valid_last:
            self._place(unit.lengths, unit.ids, unit.records, last=None)
        else:
            self._hold(unit.lengths, unit.ids, unit.records)
            while self.waiting - self.held[0]["records"] >= self.recipe.valid_last:
                held = self.held.popleft()
                self._place(*self._load(held), held["records"], last=False)
                self.waiting -= held["records"]
                self.released.append(self.folder / held["file"])
        self._keep_keys(unit.keys, unit.lengths)
        self.left_out = unit.left_out
        self.units += 1

    @property
    def taken(self) -> int:
        """Records so far, with those that wait."""
        return self.records + self.waiting

    def record(self) -> dict[str, Any]:
        """Everything needed to continue, as JSON values; the bytes it describes are then safe from a power cut."""
        for path in self.unsynced:
            if path.exists():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        self.unsynced = []
        return {
            "units": self.units,
            "records": self.records,
            "shards": {split: writer.record() for split, writer in self.writers.items()},
            "rests": {split: rest.tolist() for split, rest in self.rests.items()},
            "grouped": self.grouped,
            "counts": self.counts,
            "lost": dict(vars(self.lost)),
            "held": list(self.held),
            "left_out": self.left_out,
            "keys": self.keys.record(),
        }

    def forget(self) -> None:
        """Remove the files of units that have their place; to be called when `record` is on disk."""
        for path in self.released:
            path.unlink(missing_ok=True)
        self.released = []

    def close(self) -> dict[str, list[dict[str, Any]]]:
        """Give the records that wait their place and finish the shards; returns those of each split."""
        train = max(0, self.waiting - self.recipe.valid_last)
        for held in self.held:
            lengths, ids = self._load(held)
            first, arity = min(train, held["records"]), self.recipe.arity
            cut = int(lengths[: first * arity].sum())
            self._place(lengths[: first * arity], ids[:cut], first, last=False)
            self._place(lengths[first * arity :], ids[cut:], held["records"] - first, last=True)
            train -= first
        return {split: writer.close() for split, writer in self.writers.items()}

    def seen(self) -> np.ndarray:
        """The keys of all records so far (N,)."""
        shards = self.keys.record()
        return np.fromfile(self.folder / f"{shards[0]['file']}{PARTIAL}", "<u8") if shards else np.empty(0, "<u8")

    def copies(self) -> dict[str, int]:
        """How many documents of each split are copies of others (`count_copies`); to be called after close."""
        keys, last = self.seen(), self.recipe.valid_last
        held_out = np.zeros(len(keys), bool)
        held_out[slice(-last, None) if last else slice(None, None, self.recipe.valid_every)] = True
        return count_copies(keys, held_out)

    def __enter__(self) -> "Packer":
        return self

    def __exit__(self, *_: object) -> None:
        for writer in (*self.writers.values(), self.keys):
            writer.abandon()

    def _place(self, lengths: np.ndarray, ids: np.ndarray, records: int, last: bool | None) -> None:
        """Write records to their split: held out when `last`, or, where that is None, each valid_every-th."""
        arity = self.recipe.arity
        assert len(lengths) == records * arity
        ends = np.cumsum(lengths).tolist()
        start = 0
        for i in range(records):
            held_out = self.records % self.recipe.valid_every == 0 if last is None else last
            split = "valid" if held_out else "train"
            end = ends[(i + 1) * arity - 1]
            match self.recipe.packing:
                case "rows":
                    self._row(split, ids[start : ends[i * arity]], ids[ends[i * arity] : end])
                case "groups":
                    self._group(split, ids[start:end])
                case "stream":
                    self.writers[split].add(np.concatenate((ids[start:end], self.eos)))
            self.records += 1
            start = end

    def _keep_keys(self, keys: Sequence[int], lengths: np.ndarray) -> None:
        """Record the keys of records; one that is left out for its length has none, since it is in no split."""
        kept = np.array(keys, "<u8")
        if self.recipe.packing == "rows":
            prompts, answers = lengths[::2], lengths[1::2]
            least = answers + (prompts if self.recipe.too_long == "drop" else 0) + 1
            kept[least > self.recipe.length] = NO_TEXT
        self.keys.add(kept)

    def _group(self, split: str, ids: np.ndarray) -> None:
        """Write the rows that a document fills; the last documents' rest of a whole group is left out."""
        waiting = np.concatenate((self.rests[split], ids, self.eos))
        whole = len(waiting) // self.recipe.stride * self.recipe.stride
        self.writers[split].add(waiting[:whole])
        self.grouped[split] = (self.grouped[split] + 1) % self.recipe.group_documents
        self.rests[split] = waiting[whole:] if self.grouped[split] else waiting[:0]

    def _row(self, split: str, prompt: np.ndarray, answer: np.ndarray) -> None:
        """Write the begin and end of what is learnt, then the row: prompt, answer, end of text, and that as padding."""
        length, count = self.recipe.length, self.counts[split]
        over = len(prompt) + len(answer) + 1 - length
        if over > 0:
            if self.recipe.too_long == "drop" or over > len(prompt):
                count["dropped"] += 1
                return
            count["cut"] += 1
            prompt = prompt[over:]
        begin, end = len(prompt), len(prompt) + len(answer) + 1
        row = np.full(length + 2, self.eos[0], self.dtype)
        row[:2] = begin, length if self.recipe.diffuse_padding else end
        row[2 : 2 + end - 1] = np.concatenate((prompt, answer))
        self.writers[split].add(row)

    def _hold(self, lengths: np.ndarray, ids: np.ndarray, records: int) -> None:
        data = np.asarray(lengths, "<i8").tobytes() + ids.astype(self.dtype, copy=False).tobytes()
        path = self.folder / f"held-{self.units:08d}.bin"
        path.write_bytes(data)
        self.unsynced.append(path)
        digest = hashlib.sha256(data).hexdigest()
        self.held.append({"file": path.name, "records": records, "texts": len(lengths), "sha256": digest})
        self.waiting += records

    def _load(self, held: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        path = self.folder / held["file"]
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != held["sha256"]:
            raise Damaged
        return np.frombuffer(data, "<i8", held["texts"]), np.frombuffer(data, self.dtype, offset=8 * held["texts"])
