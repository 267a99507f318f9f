"""The trainings behind the experiments, at two scales: minutes of two cores, and the papers' own on OpenWebText.

Every training is a command line that can be typed. At the CPU scale rows have 64 tokens, and the rounds look ahead by
1, 2, 4, 8 and 16 of them (the paper's by 2 to 32 of 1,024). On text a round to half of a row undid what came before
(dev/LOG.md). SDTT looks ahead as far as MCD in the same round (half as far in its own paper), so that the rounds of
all methods ask for the same.
"""

from dataclasses import dataclass

from mcd.eval.laboratory.experiment import Training

METHODS = ("mcd", "sdtt", "cd4lm", "duo-dcd")
ROUNDS = 5
SEEDS = (0, 1, 2)
LANGUAGES = ("markov", "hmm", "grammar")
TEACHER_OF = {"mcd": "mdlm", "sdtt": "mdlm", "cd4lm": "mdlm", "duo-dcd": "duo"}


@dataclass(frozen=True)
class Scale:
    """Where text comes from and how it is scored.

    steps: of Tables 1 and 3 and Figure 3. frontier_steps: of the comparison at equal entropy. teachers: the MODEL of
    `mdlm`, `duo` and `large`, one of our trainings (`text/...`) or a hub id. judges: scorers of Table 1 and of Table 3.
    """

    name: str
    length: int
    num: int
    steps: tuple[int, ...]
    frontier_steps: tuple[int, ...]
    teachers: dict[str, str]
    judges: tuple[str, str]
    scorer_precision: str
    text_options: tuple[str, ...]
    steps_per_round: int


CPU = Scale(
    name="cpu",
    length=64,
    num=128,
    steps=(8, 16, 32, 64, 128, 512),
    frontier_steps=(4, 8, 16),
    teachers={"mdlm": "text/mdlm", "duo": "text/duo", "large": "demo"},
    judges=("smollm2", "smollm2"),
    scorer_precision="bf16",
    text_options=("--recipe", "cpu", "--data", "@data/sotu", "--batch-size", "32", "--length", "64", "--threads", "1"),
    steps_per_round=100,
)
OWT = Scale(
    name="owt",
    length=1024,
    num=1024,
    steps=(8, 16, 32, 64, 128, 256, 512),
    frontier_steps=(4, 8, 16, 32),
    teachers={
        "mdlm": "kuleshov-group/mdlm-owt",
        "duo": "s-sahoo/duo",
        "large": "jdeschena/sdtt",  # branch teacher_400k_large_step_400000
    },
    judges=("gpt2-large", "meta-llama/Meta-Llama-3-8B"),
    scorer_precision="fp32",
    text_options=("--recipe", "paper", "--data", "Skylion007/openwebtext", "--length", "1024"),
    steps_per_round=10_000,
)
SCALES = {scale.name: scale for scale in (CPU, OWT)}

SMALL = ("--hidden", "88", "--layers", "4", "--heads", "4")
ROWS = ("--length", "64", "--batch-size", "32", "--threads", "1")
TEXT_TRAINING = ("--data", "@data/sotu", "--recipe", "sotu", *SMALL, *ROWS)
UNIFORM = ("--method", "duo", "--cond-dim", "64")
LANGUAGE_TRAINING = ("--recipe", "sotu", "--layers", "3", "--heads", "4", *ROWS)
LANGUAGE_SIZE = 64
LANGUAGE_STEPS = 1000
LANGUAGE_ROUND = 40


def text_data(scale: Scale) -> list[Training]:
    """The bundled text in tokens; OpenWebText is prepared by the first training."""
    prepare = ("prepare", "--data", "sotu", "--vocab-size", "2048", "--length", "64")
    return [Training("data/sotu", prepare)] if scale.name == "cpu" else []


def text_teachers(scale: Scale) -> list[Training]:
    """The teachers of Table 1 that we train ourselves: masked, uniform, and the autoregressive model for comparison."""
    if scale.name != "cpu":
        return []
    return [
        *text_data(scale),
        Training("text/mdlm", ("train", *TEXT_TRAINING, "--steps", "6000")),
        Training("text/duo", ("train", *UNIFORM, *TEXT_TRAINING, "--steps", "3000")),
        Training("text/ar", ("train", "--method", "ar", *TEXT_TRAINING, "--steps", "3000")),
    ]


def text_student(scale: Scale, method: str, size: str = "text", rounds: int = ROUNDS) -> Training:
    """A student of Table 1 (size "text") or of Table 3 (size "large")."""
    teacher = scale.teachers["large" if size == "large" else TEACHER_OF[method]]
    teacher = f"@{teacher}" if teacher.startswith("text/") else teacher
    look_ahead: tuple[str, ...] = ()
    if scale.name == "cpu":  # the one round of Table 3 looks ahead by two tokens, as in the paper
        look_ahead = ("--delta0", "0.03125") if size == "large" else _look_ahead(method)
    options = (*scale.text_options, *_budget(rounds, scale.steps_per_round), *look_ahead)
    return Training(f"{size}/{method}", ("distill", method, "--teacher", teacher, *options))


def language_data(language: str) -> Training:
    """The token streams of a synthetic language, which all its trainings share."""
    return Training(f"data/{language}", ("prepare", "--data", language, "--length", "64"))


def language_teacher(language: str, seed: int, process: str = "mdlm", hidden: int = LANGUAGE_SIZE) -> Training:
    """A teacher of a synthetic language."""
    size = "" if hidden == LANGUAGE_SIZE else f"-h{hidden}"
    kind = {"mdlm": (), "duo": UNIFORM}[process]
    options = ("--data", f"@data/{language}", *LANGUAGE_TRAINING, "--hidden", str(hidden))
    command = ("train", *kind, *options, "--steps", str(LANGUAGE_STEPS), "--seed", str(seed))
    return Training(f"{language}/{process}{size}-s{seed}", command)


def language_student(
    language: str,
    seed: int,
    method: str,
    variant: str = "",
    options: tuple[str, ...] = (),
    rounds: int = ROUNDS,
    hidden: int = LANGUAGE_SIZE,
) -> Training:
    """A student of a synthetic language; `options` override the method's, and `variant` then names the run."""
    teacher = language_teacher(language, seed, TEACHER_OF[method], hidden)
    budget = (*_budget(rounds, LANGUAGE_ROUND), "--batch-size", "32", "--threads", "1", "--seed", str(seed))
    command = ("distill", method, "--teacher", f"@{teacher.name}", "--recipe", "cpu", *budget, *_look_ahead(method))
    name = f"{language}/{method}{f'-{variant}' if variant else ''}-s{seed}"
    return Training(name, (*command, *options))  # of an option given twice the last one counts


def _budget(rounds: int, steps_per_round: int) -> tuple[str, ...]:
    return ("--rounds", str(rounds), "--steps-per-round", str(steps_per_round))


def _look_ahead(method: str) -> tuple[str, ...]:
    """The first round's gap at 64 tokens per row is one token, also for SDTT's second teacher step.

    CD4LM's KL is taken where both are masked: a teacher that is trained only on masked tokens predicts noise where it
    sees the token. What the published method does there is one of our ablations.
    """
    return ("--region", "both") if method == "cd4lm" else ("--delta0", "0.015625")
