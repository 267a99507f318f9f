"""Distil a BERT by MCD, then sample teacher and student with the same number of steps.

    python examples/bert_mcd.py --tiny                     # random weights, offline, in less than a minute
    python examples/bert_mcd.py --teacher google-bert/bert-base-uncased --data text.txt --out runs/bert --adapt 2000
    python examples/bert_mcd.py --teacher FOLDER --data text.txt --out runs/bert --lora-rank 16 --length 256

A published BERT is not a diffusion model, because it was trained with 15% of the tokens masked. --adapt STEPS first
trains it on the diffusion bound (NELBO). Options that this script does not know are passed to `mcd distill mcd`.
"""

import argparse
from pathlib import Path

from mcd.cli.main import main as mcd

TINY = ["--rounds", "2", "--steps-per-round", "2", "--batch-size", "4", "--length", "64"]


def write_tiny_bert(folder: Path) -> str:
    """Write a folder in the layout of the hub: a two-layer BERT with random weights, whose tokens are characters."""
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
    parser.add_argument("--data", default="sotu", help="text, or a prepared folder (default: the bundled text)")
    parser.add_argument("--out", type=Path, default=Path("runs/bert_mcd"))
    parser.add_argument("--adapt", type=int, default=0, metavar="STEPS", help="training steps before distillation")
    parser.add_argument("--tiny", action="store_true", help="use a small random network instead of --teacher")
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
