"""`mcd eval MODEL --likelihood`: how likely a model finds a text, as a bound (exact for autoregressive models)."""

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer

from mcd.cli.data_checks import check_name, check_rows, check_words
from mcd.cli.data_option import print_notes
from mcd.data.encoder import Encoder
from mcd.data.languages.known import LANGUAGES
from mcd.data.loader import Batch, Loader, open_loader, spread_batch
from mcd.data.manifest import MANIFEST, read_manifest
from mcd.data.prepare.corpus import BUNDLED, documents, files_of
from mcd.data.recipe import Recipe
from mcd.data.special_tokens import end_of_text, frame_of
from mcd.data.tokenizer import tokenizer_of_model, tokenizer_sha256
from mcd.errors import DataError, UsageError
from mcd.eval.bootstrap import mean_interval
from mcd.eval.likelihood import nelbo_means
from mcd.eval.protocol import Protocol
from mcd.eval.zeroshot import PRESETS, documents_of
from mcd.model.denoiser import Denoiser
from mcd.train.ranks import everywhere, rank, share_of

BATCH = 16  # rows of a network call
FRESH = 1_000_003  # the seed of a language's rows: none of its prepared streams has it
KEYS = {"model", "text", "valid_nelbo", "valid_nelbo_se", "valid_ppl", "rows", "draws", "protocol"}
"""Keys of every row of likelihood."""


@dataclass(frozen=True)
class LikelihoodOptions:
    """Instead of samples, the bound on given text (its zero-shot perplexity, where it is not what was trained on)."""

    likelihood: tuple[str, ...] = ()
    """Texts: sotu or a prepared folder (its held-out part), a file (all of it), ptb, wikitext103, lm1b, lambada,
    ag_news, pubmed, arxiv (from the hub; NAME=FILE takes a copy of your own); for models of a known language, that
    language (markov, hmm, grammar; rows never seen). At most --num rows of each."""
    draws: int = 4
    """Draws of the bound for each row; more make the error smaller."""
    wrap: bool = False
    """Rows of text begin and end with the end-of-text token, as in MDLM's figures."""
    eos_token: str | None = None
    """The name of the token that ends a text, for models whose files say none or another."""


def likelihood_row(
    denoiser: Denoiser,
    name: str,
    options: LikelihoodOptions,
    num: int,
    length: int,
    seed: int,
    weights: Literal["ema", "raw"],
    model: str,
    round: int | None = None,
    frame: bool = False,
) -> dict[str, Any]:
    """The row of metrics.json of one model on one text: `valid_nelbo`, nats a token, with its standard error and 95 %
    bootstrap interval over rows, and `valid_ppl`, its exponential. `exact` says that it is no bound but the likelihood;
    `counted` what tokens of instruction data are counted.

    frame: rows begin and end with the tokens that the tokenizer puts around a text, which are visible and not judged.
    Raises UsageError or DataError where the text is not there, or prepared for another vocabulary, holds what the model
    never says, or loses too much by the model's tokenizer.
    """
    assert denoiser.folder is not None
    tokenizer = tokenizer_of_model(denoiser.folder, denoiser.config.tokens)
    text, loader = text_rows(name, tokenizer, length, num, options, denoiser.folder, frame)
    check_rows(f"--likelihood {name}", text.x0.numpy(), denoiser, tokenizer)
    exact = denoiser.config.process == "autoregressive"
    draws = 1 if exact else options.draws
    batches = text.split(BATCH)
    own = nelbo_means(denoiser, batches, draws, seed, share_of(len(batches)))
    means = torch.cat(everywhere(own)).double().numpy()
    interval = mean_interval(means, seed=seed)
    protocol = Protocol(
        samples=len(text.x0),
        length=length,
        frame=True if loader is not None and loader.frame else None,
        weights=weights,
        seed=seed,
        threads=torch.get_num_threads(),
    )
    return {
        "model": model,
        "round": round,
        "steps": None,
        "text": name,
        "valid_nelbo": interval.value,
        "valid_nelbo_se": means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else None,
        "valid_nelbo_lo": interval.lo,
        "valid_nelbo_hi": interval.hi,
        "valid_ppl": math.exp(min(interval.value, 700.0)),
        "exact": exact,
        "rows": len(text.x0),
        "draws": draws,
        "wrap": loader is not None and loader.wrap,
        "counted": counted_of(text),
        "protocol": {**protocol.as_dict(), "digest": protocol.digest()},
    }


def counted_of(text: Batch) -> str | None:
    """What the figures of instruction data are of, in words; None for text, which counts as it is."""
    if text.diffused is None or text.counted is None:
        return None
    if text.diffused.sum(1).equal(text.counted):
        return "answers with their first end of text, their length given"
    return "answers with their first end of text; nats of the padding behind are in it"


def text_rows(
    name: str,
    tokenizer: Tokenizer,
    length: int,
    num: int,
    options: LikelihoodOptions,
    model: Path,
    frame: bool = False,
) -> tuple[Batch, Loader | None]:
    """At most `num` rows of the text `name`, spread evenly over it, and what cut them; a language has none.

    A prepared folder and the bundled text give their held-out part, prepared data with the wrapping or frame of its
    recipe, and of instruction data the answers are what is judged;
    a known language gives fresh rows, always the same; anything else gives all of it, each document followed by the
    end of text. `tokenizer` is that of the model in the folder `model`. Raises UsageError for data prepared with
    another tokenizer or without the frame asked for, text for a model of a language and the reverse, DataError where
    there is no such text, not enough for one row, or more is lost of it than `mcd.data.encoder` says.
    """
    if (Path(name) / MANIFEST).is_file():
        manifest = read_manifest(Path(name))
        if manifest["tokenizer_sha256"] != tokenizer_sha256(tokenizer):
            check_words(f"--likelihood {name}", manifest["recipe"]["source"], tokenizer, model)
            raise UsageError(f"--likelihood {name}: prepared with another tokenizer than the model's; give its text")
        if frame and manifest["frame"] is None:
            raise UsageError(f"--frame: {name} was prepared without; prepare it with --frame, or give its text")
        loader = open_loader(Path(name), "valid", 1, length)
    elif name in LANGUAGES:
        check_words(f"--likelihood {name}", name, tokenizer, model)
        if options.wrap or frame:
            option = "--wrap" if options.wrap else "--frame"
            raise UsageError(f"{option}: {name} has no end-of-text token; leave it out")
        return Batch(LANGUAGES[name]().sample_rows(num, length, torch.Generator().manual_seed(FRESH))), None
    else:
        texts = _texts(name)
        check_words(f"--likelihood {name}", name, tokenizer, model)
        eos = end_of_text(tokenizer, str(model), options.eos_token).id
        around = frame_of(tokenizer, str(model)) if frame else None
        if around and options.wrap:
            raise UsageError("--frame: puts its own tokens around a row; not together with --wrap")
        tokens = _tokens(name, texts, tokenizer, eos)
        loader = Loader(tokens, length, 1, eos, options.wrap, shuffle=False, frame=around)
        if loader.stride < 1:
            raise DataError(f"--length {length}: must be at least 3 with {'--frame' if around else '--wrap'}")
        if loader.rows < 1:
            raise DataError(f"--likelihood {name}: has {len(tokens)} tokens, less than a row; give a smaller --length")
    return spread_batch(loader, num), loader


def _tokens(name: str, texts: Iterable[str], tokenizer: Tokenizer, eos: int) -> np.ndarray:
    """The tokens of the texts, `eos` behind each. What the tokenizer loses of them is told, too much of it refused."""
    encoder = Encoder(tokenizer.to_str())
    try:
        tokens = [token for row in encoder.encode(list(texts)) for token in (*row, eos)]
    except ValueError as error:
        raise DataError(f"--likelihood {name}: the model's tokenizer cannot encode it ({error})") from None
    told = f"--likelihood {name}: {encoder.lost.summary}"
    if encoder.lost.too_much():
        raise DataError(f"{told}; give text that the model's tokenizer knows, or prepare it: mcd prepare --most-lost")
    if encoder.lost.summary and rank() == 0:
        print(told, file=sys.stderr)
    return np.array(tokens, dtype=np.int64)


def _texts(name: str) -> Iterable[str]:
    """The documents of a name as --likelihood takes it."""
    if name in BUNDLED:
        return (text for i, text in enumerate(documents(name)) if i % Recipe.valid_every == 0)
    preset, _, file = name.partition("=")
    if preset in PRESETS and file and not Path(file).exists():
        raise UsageError(f"--likelihood {name}: {file}: no such file or folder")
    try:
        if preset in PRESETS:
            if file:
                print_notes(files_of(Recipe(file, PRESETS[preset].field, split=PRESETS[preset].split)).notes())
            return list(documents_of(preset, Path(file) if file else None))
        check_name(name, "--likelihood")
        print_notes(files_of(Recipe(name)).notes())
        return list(documents(name))
    except DataError as error:
        raise DataError(str(error).replace("--data", "--likelihood", 1)) from None
