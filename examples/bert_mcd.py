"""Distil a BERT by MCD, then draw from teacher and student in as many steps. Other options go to `mcd distill mcd`.

    python examples/bert_mcd.py --tiny                     # random weights, offline, in less than a minute
    python examples/bert_mcd.py --teacher google-bert/bert-base-uncased --data text.txt --out runs/bert --adapt 2000
    python examples/bert_mcd.py --teacher FOLDER --data text.txt --out runs/bert --lora-rank 16 --length 256

A BERT is no diffusion model as it comes, having seen 15% of a row masked; --adapt STEPS trains it on the bound first.
"""

import argparse
from pathlib import Path

from mcd.cli.main import main as mcd

TINY = ["--rounds", "2", "--steps-per-round", "2", "--batch-size", "4", "--length", "64"]


def write_tiny_bert(folder: Path) -> str:
    """A folder like those of the hub: a network of two layers that knows nothing, and letters for tokens."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForMaskedLM, set_seed

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    set_seed(0)
    BertForMaskedLM(BertConfig(vocab_size=len(tokens), **sizes)).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="a folder or a hub id")
    parser.add_argument("--data", default="sotu", help="text, or a prepared folder; the bundled speeches by default")
    parser.add_argument("--out", type=Path, default=Path("runs/bert_mcd"))
    parser.add_argument("--adapt", type=int, default=0, metavar="STEPS", help="steps on the bound before")
    parser.add_argument("--tiny", action="store_true", help="a random network in place of --teacher")
    args, more = parser.parse_known_args()
    if args.tiny:
        args.teacher, args.adapt, more = write_tiny_bert(args.out / "tiny"), args.adapt or 2, TINY + more
    if not args.teacher:
        parser.error("give --teacher FOLDER_OR_HUB_ID, or --tiny")
    data = ["--data", args.data]
    if args.adapt:
        of_rows = [word for i, word in enumerate(more) if {"--batch-size", "--length"} & {word, *more[i - 1 : i]}]
        adapt = ["--init", args.teacher, *data, "--optimizer", "adamw", "--lr", "1e-4", "--steps", str(args.adapt)]
        if status := mcd(["train", *adapt, *of_rows, "--out", str(args.out / "teacher")]):
            return status
        args.teacher = str(args.out / "teacher")
    student = str(args.out / "student")
    status = mcd(["distill", "mcd", "--teacher", args.teacher, *data, "--out", student, *more])
    for model in (args.teacher, student) if not status else ():
        mcd(["sample", model, "--num", "1", "--steps", "8", "--length", "48"])
    return status


if __name__ == "__main__":
    raise SystemExit(main())
