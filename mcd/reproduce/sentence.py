"""The real sentence that figures 1 and 2 follow through the process."""

import torch
from torch import Tensor

from mcd.checkpoints.folder import locate
from mcd.data.prepare.corpus import documents
from mcd.data.token_texts import token_texts
from mcd.data.tokenizer import tokenizer_of_model

SENTENCE = "The dogmas of the quiet past are inadequate to the stormy present."
"""Abraham Lincoln's message of 1862, in the bundled corpus."""
V = 2048
"""Real tokens of the bundled tokenizer; K = V + 1 with the mask, whose id is V."""


def sentence_tokens(text: str = SENTENCE) -> tuple[Tensor, list[str]]:
    """The bundled tokenizer's ids of a sentence of the bundled corpus, (L,), and what each spells, spaces as '·'.

    Raises ValueError for text that the corpus does not hold.
    """
    if not any(text in document for document in documents("sotu")):
        raise ValueError(f"{text!r} is not in the bundled corpus")
    tokenizer = tokenizer_of_model(locate("demo"), V)
    ids: list[int] = tokenizer.encode(" " + text, add_special_tokens=False).ids  # as after another one
    return torch.tensor(ids), [(share or "").replace(" ", "·") for share in token_texts(tokenizer, ids, V)]
