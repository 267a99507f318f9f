"""What samples are read against: held-out text, the same with its words shuffled, nonsense tuned to its entropy."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mcd.data.languages.known import LANGUAGES
from mcd.data.loader import open_loader, spread_rows
from mcd.data.manifest import read_manifest
from mcd.data.text import Borders, Documents, Writer
from mcd.data.tokenizer import load_tokenizer
from mcd.data.tokens import read_tokens
from mcd.errors import UsageError
from mcd.eval.control import CONTROLS, tuned
from mcd.eval.diversity import Ids, sample_entropy
from mcd.eval.features import Features
from mcd.eval.known_language import truth_metrics
from mcd.eval.laboratory.measure import check_scorer
from mcd.eval.mauve import Reference, reference_of
from mcd.eval.memorisation import PART, TrainingText, overlapping
from mcd.eval.metrics import PLAIN, Scoring, measure, shuffled
from mcd.eval.protocol import Protocol
from mcd.eval.scorer import Scorer, Text


class HeldOut:
    """The held-out rows of `folder`, prepared data, of `length` tokens (None: as it was prepared)."""

    def __init__(self, folder: Path, length: int | None, seed: int, borders: Borders = "kept"):
        self.folder, self.loader = folder, open_loader(folder, "valid", 1, length)
        self.tokenizer = load_tokenizer(folder)
        self.writer = Writer(self.tokenizer, self.loader.eos_id, borders)
        self.seed = seed

    def text(
        self, num: int, scorer: Scorer | None, scoring: Scoring = PLAIN, language: str | None = None
    ) -> list[dict[str, Any]]:
        """The rows `text` and `shuffled` (its words in random order), of `num` rows spread over the documents.

        language: the synthetic language of the data, whose truth then judges both; what `text` differs by is the floor.
        Its tokens are shuffled. Raises UsageError as `check_scorer`.
        """
        ids = spread_rows(self.loader, num).tolist()
        texts = [self.writer.documents(row) for row in ids]
        if language is None:
            mixed = shuffled(texts, self.seed)
            nonsense = [self.writer.ids(documents) for documents in mixed]
        else:
            nonsense = np.random.default_rng(self.seed).permuted(ids, axis=1).tolist()
            mixed = [self.writer.documents(row) for row in nonsense]
        sets = {"text": (ids, texts), "shuffled": (nonsense, mixed)}
        rows = []
        for name, (ids, texts) in sets.items():
            extra = truth_metrics(torch.tensor(ids), LANGUAGES[language](), seed=self.seed) if language else {}
            rows.append(self._row(name, ids, texts, scorer, scoring, extra))
        return rows

    def controls(self, num: int, scorer: Scorer | None, scoring: Scoring = PLAIN) -> list[dict[str, Any]]:
        """The rows `control-periodic` and `control-topk`: nonsense of the held-out tokens at the entropy of the text.

        They also hold `control_k`, the knob, and `entropy_target`. Raises UsageError as `check_scorer`.
        """
        target, width = sample_entropy(spread_rows(self.loader, num)), spread_rows(self.loader, 1).shape[1]
        rows = []
        for name, control in CONTROLS.items():
            found = tuned(control, self.loader.stream(), target, num, width, self.seed)
            texts = [self.writer.documents(row) for row in found.ids.tolist()]
            extra = {"control_k": found.k, "entropy_target": target}
            rows.append(self._row(name, found.ids, texts, scorer, scoring, extra))
        return rows

    def reference(self, name: str, num: int, by: Features) -> Reference:
        """Real text to compare samples with: at most `num` rows, which lie between those of `text`, so that real text
        is not compared with itself where there is enough. by: what reads them. Raises UsageError for fewer than 4 rows.
        """
        ids = spread_rows(self.loader, 2 * num)[1::2].tolist()
        if len(ids) < 4:
            raise UsageError(
                f"--reference {name}: gives {len(ids)} held-out rows at that --length and --num; 4 or more are needed"
            )
        return reference_of(name, [self.writer.documents(row) for row in ids], by, self.seed)

    def training(self, name: str, num: int) -> TrainingText:
        """The training part of the data, to look for copies in; beside it at most `num` held-out rows, which lie
        between those of `text` if there are so many. Both are cut by the data's own tokenizer."""
        ids = spread_rows(self.loader, 2 * num)
        held_out = ids[1::2] if len(ids) > 1 else ids

        def ids_of(text: Text) -> list[int]:
            return self.writer.ids((text,) if isinstance(text, str) else tuple(text))

        return TrainingText(
            name,
            partial(training_parts, self.folder),
            ids_of,
            self.tokenizer.get_vocab_size(),
            [ids_of(self.writer.documents(row)) for row in held_out.tolist()],
            self.seed,
        )

    def _row(
        self,
        name: str,
        ids: Ids,
        texts: list[Documents],
        scorer: Scorer | None,
        scoring: Scoring,
        extra: dict[str, Any],
    ) -> dict[str, Any]:
        check_scorer(scoring, scorer, self.tokenizer)
        frame = True if self.loader.frame else None
        protocol = Protocol(borders=self.writer.borders, length=self.loader.length, frame=frame, seed=self.seed)
        return measure(ids, texts, scorer, protocol, model=name, scoring=scoring, extra=extra, seed=self.seed).row


def training_parts(folder: Path, overlap: int) -> Iterator[NDArray]:
    """The training part of prepared data in parts of ids that overlap by so many; of instruction data, all text of the
    rows, one after the other."""
    manifest, tokens = read_manifest(folder), read_tokens(folder, "train")
    if manifest["packing"] != "rows":
        yield from overlapping(tokens, overlap)
        return
    length = manifest["recipe"]["length"]
    stride = length + 2
    for part in overlapping(tokens, overlap=stride * -(-overlap // length), part=stride * max(1, PART // stride)):
        yield part.reshape(-1, stride)[:, 2:].reshape(-1)
