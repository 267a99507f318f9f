"""`mcd eval MODEL --likelihood`: the rows of the texts that it names."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from mcd.cli.data_checks import check_name, check_rows, check_words
from mcd.cli.data_option import print_notes
from mcd.cli.eval_options import EvalArgs, LikelihoodOptions
from mcd.data.encoder import Encoder
from mcd.data.languages.known import LANGUAGES, language_of_data
from mcd.data.loader import Batch, Loader, open_loader, spread_batch
from mcd.data.manifest import is_prepared, read_manifest
from mcd.data.prepare.corpus import BUNDLED, documents, files_of
from mcd.data.recipe import Recipe
from mcd.data.special_tokens import end_of_text, frame_of
from mcd.data.text import Writer, whole_characters
from mcd.data.token_bytes import LOSSY, reads_back, row_bytes
from mcd.data.tokenizer import tokenizer_of_model, tokenizer_sha256
from mcd.errors import DataError, UsageError
from mcd.eval.bits_per_byte import causal_figures
from mcd.eval.infilling import word_accuracy, words_of
from mcd.eval.laboratory.measure import check_scorer
from mcd.eval.likelihood import likelihood_of
from mcd.eval.metrics import Scoring
from mcd.eval.protocol import Protocol
from mcd.eval.scorer import Scorer
from mcd.eval.zeroshot import PRESETS, documents_of
from mcd.model.denoiser import Denoiser

FRESH = 1_000_003  # the seed of a language's rows: none of its prepared streams has it


def likelihood_rows(
    denoiser: Denoiser, name: str, args: EvalArgs, scorer: Callable[[], Scorer] | None = None
) -> list[dict[str, Any]]:
    """The rows of metrics.json on the text `name`: that of a model, and that of a causal model where there is one.

    args: those of `mcd eval`. scorer: loads the causal model, which scores the text of the same rows; it is called
    after all checks. Raises UsageError or DataError where there is no such text, it was prepared for another
    vocabulary, holds what the model never says, loses too much by the model's tokenizer, or cannot be scored.
    """
    assert denoiser.folder is not None
    tokenizer, sampling = tokenizer_of_model(denoiser.folder, denoiser.config.tokens), args.sampling
    text, loader = text_rows(name, denoiser, tokenizer, args.num, args.likelihood, sampling.length, sampling.frame)
    check_rows(f"--likelihood {name}", text.x0.numpy(), denoiser, tokenizer)
    is_text = loader is not None and language_of_data(name) is None
    if scorer is not None and (loader is None or not is_text or loader.spans):
        what = "answers, which a scorer cannot tell from their prompts" if is_text else "symbols of a language, no text"
        raise UsageError(f"--scorer {args.scoring.scorer}: {name} holds {what}; leave it out")
    words = _words(denoiser, name, text, is_text, tokenizer) if args.likelihood.infill else []
    bytes = row_bytes(tokenizer, text, loader.eos_id) if loader is not None and is_text else None
    protocol = Protocol(
        samples=len(text.x0),
        length=text.x0.shape[1],
        frame=True if loader is not None and loader.frame else None,
        weights=sampling.weights,
        seed=args.seed,
        threads=torch.get_num_threads(),
        dtype=denoiser.dtype_said,
    )
    no_steps = {"round": None, "steps": None, "text": name}
    of_text = {
        "bytes_of": None if bytes is None or reads_back(tokenizer) else LOSSY,
        "wrap": loader is not None and loader.wrap,
    }
    rows = [
        {
            "model": args.source,
            **no_steps,
            **likelihood_of(denoiser, text, args.likelihood.draws, args.seed, bytes),
            **of_text,
            "protocol": protocol.stamp(),
        }
    ]
    if words:
        rates = args.likelihood.infill
        rows[0]["infilled"] = [word_accuracy(denoiser, text.x0, words, rate, args.seed) for rate in rates]
    if scorer is not None and loader is not None:
        causal = scorer()
        found = _causal_figures(causal, text.x0, loader, tokenizer, protocol, args)
        rows.append({"model": causal.name, **no_steps, **found, **of_text})
    return rows


def _words(denoiser: Denoiser, name: str, text: Batch, is_text: bool, tokenizer: Tokenizer) -> list[list[list[int]]]:
    """The words of each row, of which --infill masks some. Raises UsageError where it cannot mask any."""
    if denoiser.config.process != "masked":
        process = denoiser.config.process
        raise UsageError(f"--infill: words are filled in by masked models; this one is {process}; leave it out")
    words = [words_of(tokenizer, row) for row in text.x0.tolist()] if is_text and text.diffused is None else []
    if not any(words):
        raise UsageError(f"--infill: {name} holds no plain text whose words could be masked; leave it out")
    return words


def _causal_figures(
    scorer: Scorer, x0: Tensor, loader: Loader, tokenizer: Tokenizer, protocol: Protocol, args: EvalArgs
) -> dict[str, Any]:
    """The figures of a causal model on the text of rows of tokens, without the characters that their ends cut."""
    check_scorer(Scoring(borders=args.scoring.borders), scorer, tokenizer)
    writer = Writer(tokenizer, loader.eos_id, args.scoring.borders)
    rows = (x0 if loader.frame is None else x0[:, 1:-1]).tolist()
    texts = [whole_characters(writer.documents(row)) for row in rows]
    try:
        found = causal_figures(scorer, texts, args.seed)
    except ValueError as error:
        raise UsageError(f"--scorer {args.scoring.scorer}: {error}; give another") from None
    scored = {"scorer": scorer.name, "scorer_precision": scorer.precision, "scorer_context": scorer.context}
    protocol = replace(protocol, **scored, retokenised=True, borders=args.scoring.borders, weights=None)
    return {**found, "exact": True, "draws": 1, "counted": None, "protocol": protocol.stamp()}


def text_rows(
    name: str,
    model: Denoiser,
    tokenizer: Tokenizer,
    num: int,
    options: LikelihoodOptions,
    length: int | None = None,
    frame: bool = False,
) -> tuple[Batch, Loader | None]:
    """At most `num` rows of the text `name`, spread evenly over it, and what cut them; nothing cuts a language.

    length: of the rows; by default the longest that the model takes, and of prepared data no more than it was prepared
    for. A prepared folder and the bundled text give their held-out part, prepared data with the wrapping or frame of
    its recipe, and only the answers of instruction data are scored. A synthetic language gives new rows, always the
    same ones.
    Anything else gives all of it, each document followed by the end of text. Raises UsageError for data prepared with
    another tokenizer or without the frame asked for, for text and a model of a language, and the reverse; DataError
    where there is no such text, not enough for one row, or more is lost of it than `mcd.data.encoder` allows.
    """
    option, folder, longest = f"--likelihood {name}", model.folder, model.config.backbone.length
    assert folder is not None
    if is_prepared(name):
        manifest = read_manifest(Path(name))
        if manifest["tokenizer_sha256"] != tokenizer_sha256(tokenizer):
            check_words(option, manifest["recipe"]["source"], tokenizer, folder)
            raise UsageError(f"{option}: prepared with another tokenizer than the model's; give its text")
        if frame and manifest["frame"] is None:
            raise UsageError(f"--frame: {name} was prepared without; prepare it with --frame, or give its text")
        loader = open_loader(Path(name), "valid", 1, length or min(longest, manifest["recipe"]["length"]))
        return spread_batch(loader, num), loader
    length = length or longest
    if name in LANGUAGES:
        check_words(option, name, tokenizer, folder)
        if options.wrap or frame:
            raise UsageError(
                f"{'--wrap' if options.wrap else '--frame'}: {name} has no end-of-text token; leave it out"
            )
        return Batch(LANGUAGES[name]().sample_rows(num, length, torch.Generator().manual_seed(FRESH))), None
    texts = _texts(name)
    check_words(option, name, tokenizer, folder)
    eos = end_of_text(tokenizer, str(folder), options.eos_token).id
    around = frame_of(tokenizer, str(folder)) if frame else None
    if around and options.wrap:
        raise UsageError("--frame: puts its own tokens around a row; leave out --wrap")
    tokens = _tokens(option, texts, tokenizer, eos)
    loader = Loader(tokens, length, 1, eos, options.wrap, shuffle=False, frame=around)
    if loader.stride < 1:
        raise DataError(f"--length {length}: must be at least 3 with {'--frame' if around else '--wrap'}")
    if loader.rows < 1:
        raise DataError(f"{option}: has {len(tokens)} tokens, less than a row; give a smaller --length")
    return spread_batch(loader, num), loader


def _tokens(option: str, texts: Iterable[str], tokenizer: Tokenizer, eos: int) -> np.ndarray:
    """The tokens of the texts, `eos` behind each. What the tokenizer loses is reported; if it is too much, refused."""
    encoder = Encoder(tokenizer.to_str())
    try:
        tokens = [token for row in encoder.encode(list(texts)) for token in (*row, eos)]
    except ValueError as error:
        raise DataError(f"{option}: the model's tokenizer cannot encode it ({error})") from None
    lost = f"{option}: {encoder.lost.summary}"
    if encoder.lost.too_much():
        raise DataError(f"{lost}; give text that the model's tokenizer knows, or prepare it: mcd prepare --most-lost")
    print_notes([lost] if encoder.lost.summary else [])
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
