"""The `mcd` command: a static table of commands, each imported only when it runs."""

import errno
import gc
import importlib
import os
import sys

import mcd
from mcd.cli.errors import explained, fail, nearest

COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("mcd.cli.doctor", "check the installation, the device, and that training and sampling work"),
    "prepare": ("mcd.cli.prepare", "turn text into packed tokens"),
    "train": ("mcd.cli.train", "train a teacher: masked, uniform or autoregressive"),
    "adapt": ("mcd.cli.adapt", "make a masked teacher out of an autoregressive model of the hub"),
    "distill": ("mcd.cli.distill", "distil a teacher into a few-step student"),
    "sample": ("mcd.cli.sample", "draw text, or fill in a template"),
    "serve": ("mcd.cli.serve", "serve a model over HTTP, with the completions API of OpenAI"),
    "play": ("mcd.cli.play", "try models in the browser: side by side, filling in, the duality"),
    "eval": ("mcd.cli.eval", "measure Gen PPL, entropy, repetition, likelihood, controls, with intervals"),
    "lm-eval": ("mcd.cli.lm_eval", "run tasks of lm-evaluation-harness with a model of ours"),
    "import": ("mcd.cli.import_", "turn a public checkpoint of MDLM, SDTT or Duo into a model"),
    "export": ("mcd.cli.export", "write a model in the layout of MDLM on the Hugging Face hub"),
    "push": ("mcd.cli.push", "upload a model to the Hugging Face hub, with a model card"),
    "report": ("mcd.cli.report", "make one self-contained page about runs"),
    "frontier": ("mcd.cli.frontier", "compare models at equal entropy, by temperature sweeps"),
    "reproduce": ("mcd.cli.reproduce", "run the paper's tables, figures and ablations"),
    "bench": ("mcd.cli.bench", "measure speed and memory: our code against the peers' way"),
    "plan": ("mcd.cli.plan", "estimate memory and time of a training step on given hardware"),
    "completion": ("mcd.cli.completion", "print a script that completes mcd's command lines in bash or zsh"),
    "demo": ("mcd.cli.demo", "run the main job on the bundled text and teacher"),
}

SHARED = ("train", "adapt", "distill", "sample", "eval")
"""Commands that the processes of a torchrun job share; any other command is run only by the first process."""

COMPUTING = (*SHARED, "serve", "play", "lm-eval", "frontier", "reproduce", "demo")
"""Commands whose work is that of a network."""

HELP = """usage: mcd COMMAND [options]

Few-step masked diffusion language models by Masked Consistency Distillation.

commands:
{commands}

MODEL is a folder, a hub id, or `demo`, the bundled teacher.
`mcd COMMAND --help` lists the options of a command, with examples.
Exit status: 0 done, 1 failed, 2 the request made no sense.

examples:
  mcd sample demo --num 2 --steps 32
  mcd distill mcd --teacher demo --recipe cpu --out runs/student
  mcd eval runs/student --steps 8 32 --out runs/student/metrics.json
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status (0 done, 1 failed, 2 the request made no sense).

    argv: the words after `mcd`; None for those of this process, which then runs nothing else.
    """
    if argv is None:
        gc.disable()  # until the command is imported
    try:
        try:
            status = _run(sys.argv[1:] if argv is None else argv, alone=argv is None)
            if argv is None and (ranks := sys.modules.get("mcd.training.ranks")):
                ranks.end(status)  # returns where this process is the only one
            return status
        finally:
            if sys.stdout is not None:  # closed by the shell
                sys.stdout.flush()
    except KeyboardInterrupt:  # before or after the command's own part
        return fail("stopped", 1)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # stdout, which Python flushes once more when it ends
        return 1 if error.errno == errno.EPIPE else fail("no space left for the output", 1)  # EPIPE: `head` has left


def _run(argv: list[str], alone: bool) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        lines = (f"  {name:12}{what}" for name, (_, what) in COMMANDS.items())
        print(HELP.format(commands="\n".join(lines)), end="")
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(f"mcd {mcd.__version__}")
        return 0
    if argv[0] not in COMMANDS:
        return fail(f"unknown command {argv[0]!r}{nearest(argv[0], COMMANDS)}; `mcd --help` lists them", 2)
    if argv[0] not in SHARED and os.environ.get("WORLD_SIZE", "1") != "1":
        if os.environ.get("RANK", "0") != "0":
            return 0
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
            os.environ.pop(name, None)
    if argv[0] in COMPUTING:
        from mcd.allocator import keep_freed_blocks

        keep_freed_blocks()  # before torch is imported: the first blocks count too
    if argv[0] == "demo" and alone:
        from mcd.machine import let_threads_sleep

        let_threads_sleep()  # also of the processes that it starts
    command = importlib.import_module(COMMANDS[argv[0]][0])
    if alone:
        gc.freeze()  # torch stays loaded; collecting its objects repeatedly, and at the end, takes 0.5 s
        gc.enable()
    with explained() as outcome:
        outcome.status = command.main(argv[1:]) or 0
    return outcome.status


if __name__ == "__main__":
    sys.exit(main())
