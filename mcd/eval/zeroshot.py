"""The seven texts on which MDLM (arXiv 2406.07524) and Duo (arXiv 2506.10892) report zero-shot perplexity.

Each is a dataset of the Hugging Face hub with a split, a field, and a detokeniser that undoes what was done to its
text. Nothing is fetched before it is asked for; a file of one's own can take the hub's place (`documents_of`).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcd.data.prepare.corpus import documents
from mcd.errors import DataError
from mcd.hub_access import hub_access

CONVERTED = "refs/convert/parquet"
"""Where the hub keeps converted files of datasets that are scripts, which `datasets` does not run."""


@dataclass(frozen=True)
class ZeroShot:
    """Where a text is and how it becomes text again; `note` says what to know before numbers are compared."""

    dataset: str
    config: str
    split: str
    field: str
    detokenise: Callable[[str], str]
    note: str
    revision: str | None = None


def _rewriter(*rules: tuple[str, str]) -> Callable[[str], str]:
    """Regular expressions and what takes their place, one rule after the other."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rewrite(text: str) -> str:
        for pattern, replacement in compiled:
            text = pattern.sub(replacement, text)
        return text

    return rewrite


# The public evaluations' conventions, rule by rule in their order: numbers are comparable only with the same text.
detokenise_wikitext = _rewriter(
    (r"s '", "s'"),
    (r" @-@ ", "-"),
    (r" @,@ ", ","),
    (r" @\.@ ", "."),
    (r" : ", ": "),
    (r" ; ", "; "),
    (r" \. ", ". "),
    (r" ! ", "! "),
    (r" \? ", "? "),
    (r" , ", ", "),
    (r"\(\s*([^)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"\{\s*([^}]*?)\s*\}", r"{\1}"),
    (r'"\s*([^"]*?)\s*"', r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
    (r"= = = =", "===="),
    (r"= = =", "==="),
    (r"= =", "=="),
    (r" ° ", "°"),
    (r" \n", "\n"),
    (r"\n ", "\n"),
    (r" N ", " 1 "),
    (r" 's", "'s"),
)
"""WikiText's tokens to text: @-@ and its like, punctuation, brackets and quotes, headings."""

detokenise_ptb = _rewriter(
    (r" 's", "'s"),
    (r"s ' ", "s' "),
    (r" n't", "n't"),
    (r" \n ", "\n"),
    (r"\\/", "/"),
    (r"(?<= )N(?= )", "1"),
    (r"([$#]) 1", r"\g<1>1"),
    (r"<unk>", "?"),
)
"""Penn Treebank's tokens to text: clitics, numbers (N) as 1, unknown words as ?."""

detokenise_lm1b = _rewriter(
    (r"(https?) : / / ", r"\1://"),
    (r" '(\w+)", r"'\1"),
    (r" (\w+) \. ", r" \1. "),
    (r" (\w+) \.$", r" \1."),
    (r" \? ", "? "),
    (r" \?$", "?"),
    (r" ! ", "! "),
    (r" !$", "!"),
    (r" , ", ", "),
    (r" : ", ": "),
    (r" ; ", "; "),
    (r" / ", "/"),
    (r'" ([^"]+) "', r'"\1"'),
    (r"' ([^']+) '", r"'\1'"),
    (r"\( ([^()]+) \)", r"(\1)"),
    (r"\[ ([^\[\]]+) \]", r"[\1]"),
    (r"([$£]) ", r"\1"),
)
"""The One Billion Word Benchmark's tokens to text."""


def detokenise_lambada(text: str) -> str:
    """LAMBADA as OpenAI scored it: straight quotes, a line break in front."""
    return "\n" + text.replace("\u201c", '"').replace("\u201d", '"').strip()


def detokenise_papers(text: str) -> str:
    """The scientific papers' tokens to text: WikiText's rules, then LM1B's."""
    return detokenise_lm1b(detokenise_wikitext(text))


_PAPERS = "armanc/scientific_papers"
PRESETS = {
    "ptb": ZeroShot(
        "ptb-text-only/ptb_text_only",
        "penn_treebank",
        "validation",
        "sentence",
        detokenise_ptb,
        "A sentence a document, lower case, rare words as ?.",
        CONVERTED,
    ),
    "wikitext103": ZeroShot(
        "Salesforce/wikitext",
        "wikitext-103-raw-v1",
        "validation",
        "text",
        detokenise_wikitext,
        "A line a document. MDLM keeps empty lines as end-of-text tokens; here they are left out.",
    ),
    "lm1b": ZeroShot(
        "billion-word-benchmark/lm1b",
        "plain_text",
        "test",
        "text",
        detokenise_lm1b,
        "A sentence a document, in random order.",
        CONVERTED,
    ),
    "lambada": ZeroShot(
        "EleutherAI/lambada_openai",
        "default",
        "test",
        "text",
        detokenise_lambada,
        "OpenAI's version of the passages; whole passages are scored, not the last word.",
    ),
    "ag_news": ZeroShot("fancyzhx/ag_news", "default", "test", "text", str, "Headline and lead, unchanged."),
    "pubmed": ZeroShot(_PAPERS, "pubmed", "validation", "article", detokenise_papers, "Whole articles.", CONVERTED),
    "arxiv": ZeroShot(_PAPERS, "arxiv", "validation", "article", detokenise_papers, "Whole articles.", CONVERTED),
}
"""The texts by name. MDLM packs them as it trains: rows between end-of-text tokens, one behind each document."""


def documents_of(name: str, file: Path | None = None) -> Iterator[str]:
    """The documents of a preset, detokenised: from the hub, or from a local copy in any form that `documents` reads.

    Raises DataError, which says how to fix it, for a name that is not a preset, without the `hub` extra, and without
    a network.
    """
    if name not in PRESETS:
        raise DataError(f"--likelihood {name}: no preset; known: {', '.join(PRESETS)}")
    preset = PRESETS[name]
    texts = documents(str(file), preset.field, preset.split) if file is not None else _from_hub(name, preset)
    for text in texts:
        if text.strip():
            yield preset.detokenise(text)


def _from_hub(name: str, preset: ZeroShot) -> Iterator[str]:
    copy = f"or give a copy of your own: --likelihood {name}=FILE (field {preset.field!r})"
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"--likelihood {name}: is the hub dataset {preset.dataset}, which needs the package datasets; "
            f"pip install 'mcd-lm[hub]', {copy}"
        ) from None
    with hub_access() as access:
        try:
            rows: Any = datasets.load_dataset(
                preset.dataset, preset.config, split=preset.split, revision=preset.revision, streaming=True
            )
            for row in rows:
                yield row[preset.field]
        except Exception as error:  # the hub client raises many kinds; all mean the same to the user
            raise DataError(
                f"--likelihood {name}: is the hub dataset {preset.dataset}, {preset.config}; {access.refusal(error)}; "
                f"it needs the network, {copy}"
            ) from None
