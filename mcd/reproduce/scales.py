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
JUDGED = (*METHODS, "ltd", "idlm")
"""The methods that are compared on text at equal entropy; those of METHODS are the paper's."""
TEACHER_OF = dict.fromkeys(("mcd", "sdtt", "cd4lm", "ltd", "ltd-greedy", "idlm", "mmd", "nelbo"), "mdlm") | {
    "duo-dcd": "duo"
}


ROWS = ("--length", "64", "--batch-size", "32", "--threads", "1")


@dataclass(frozen=True)
class Scale:
    """Where text comes from and how it is scored.

    text: the name and the command of the training that prepares the text, whose held-out part samples are compared
    with. data: the --data of the trainings on text. text_options: their other options. steps: of Tables 1 and 3 and
    Figure 3. frontier_steps: of the comparison at equal entropy. teachers: the MODEL of `mdlm`, `duo` and `large`, one
    of our trainings (`text/...`) or a hub id. judges: scorers of Table 1 and of Table 3.
    """

    name: str
    length: int
    num: int
    steps: tuple[int, ...]
    frontier_steps: tuple[int, ...]
    teachers: dict[str, str]
    judges: tuple[str, str]
    scorer_precision: str
    text: tuple[str, tuple[str, ...]]
    data: str
    text_options: tuple[str, ...]
    steps_per_round: int


CPU = Scale(
    name="cpu",
    length=64,
    num=64,
    steps=(8, 16, 32, 64, 512),
    frontier_steps=(1, 2, 4, 8),
    teachers={"mdlm": "demo", "duo": "text/duo", "large": "demo"},
    judges=("smollm2", "smollm2"),
    scorer_precision="bf16",
    text=("data/sotu", ("prepare", "--data", "sotu", "--tokenizer", "demo", "--length", "64")),
    data="sotu",  # prepared for each teacher: the uniform one has no token for a mask
    text_options=("--recipe", "cpu", *ROWS, "--precision", "bf16-mixed"),
    steps_per_round=100,
)
"""Its teachers of text are the bundled one and a uniform one that starts from it; tokens and text are theirs."""
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
    text=("data/owt", ("prepare", "--preset", "owt-mdlm")),
    data="@data/owt",
    text_options=("--recipe", "paper", "--length", "1024"),
    steps_per_round=10_000,
)
SCALES = {scale.name: scale for scale in (CPU, OWT)}

UNIFORM_TRAINING = (
    *("--recipe", "sotu", "--lr", "1e-3", "--length", "128", "--batch-size", "32"),
    *("--steps", "1400", "--valid-every", "200", "--threads", "1"),
)
OWN_BUDGET = {
    "ltd": (
        *"--rounds 1 --steps-per-round 400 --batch-size 8 --lr 5e-4".split(),
        *"--trajectory-steps 16 --valid-every 0".split(),
    ),
    "idlm": tuple("--rounds 2 --steps-per-round 450 --lr 5e-5 --valid-every 90 --min-entropy 2.5".split()),
    "mmd": tuple("--rounds 1 --steps-per-round 120 --batch-size 64 --lr 1e-4 --valid-every 0".split()),
}
"""Budgets of methods whose step is another amount of work: a step of `ltd` has 8 trajectories and 64 states of them;
one step in nine of `idlm` is the student's; a step of `mmd` is the work of three of `mcd`."""
UNIFORM = ("--method", "duo", "--cond-dim", "64")
LANGUAGE_TRAINING = ("--recipe", "sotu", "--layers", "3", "--heads", "4", *ROWS)
MORE = ("--recipe", "sotu", "--warm-start", "0", *ROWS)
"""How a teacher is trained further."""
LANGUAGE_SIZE = 64
LANGUAGE_STEPS = 1000
LANGUAGE_ROUND = 40
OWN_LANGUAGE_BUDGET = {
    "ltd": tuple(
        "--rounds 1 --steps-per-round 400 --batch-size 8 --lr 1e-3 --warmup-steps 50 --lr-decay 0.5 "
        "--trajectory-steps 16 --valid-every 0".split()
    ),
    "idlm": tuple("--rounds 2 --steps-per-round 450 --lr 1e-4 --warmup-steps 20 --valid-every 0".split()),
    "mmd": tuple(
        "--rounds 1 --steps-per-round 300 --batch-size 64 --lr 3e-4 --warmup-steps 20 --valid-every 0".split()
    ),
}
"""Budgets on languages of known law, in place of five rounds of LANGUAGE_ROUND steps; a step is as in OWN_BUDGET."""
LANGUAGE_CONTROL = 400
"""Steps of the control of more training."""


def text_data(scale: Scale) -> list[Training]:
    """The text in tokens."""
    return [Training(*scale.text)]


def text_teachers(scale: Scale) -> list[Training]:
    """The data, and on two cores the uniform teacher; the other teachers are bundled or published."""
    if scale.name != "cpu":
        return text_data(scale)
    uniform = ("train", "--method", "duo", "--init", "demo", "--data", scale.data, *UNIFORM_TRAINING)
    return [*text_data(scale), Training("text/duo", uniform)]


def text_student(scale: Scale, method: str, size: str = "text", rounds: int = ROUNDS) -> Training:
    """A student of Table 1 (size "text") or of Table 3 (size "large"), or of another method that is judged."""
    teacher = scale.teachers["large" if size == "large" else TEACHER_OF[method]]
    teacher = f"@{teacher}" if teacher.startswith("text/") else teacher
    own = _budget(rounds, scale.steps_per_round)
    if scale.name == "cpu" and size == "large":
        own += ("--delta0", "0.03125")  # two tokens, as in the paper
    elif scale.name == "cpu":
        own = OWN_BUDGET[method] if method in OWN_BUDGET else (*own, *_look_ahead(method))
    elif method in OWN_BUDGET:
        own = ()  # that of --recipe paper
    options = ("--data", scale.data, *scale.text_options, *own)
    return Training(f"{size}/{method}", ("distill", method, "--teacher", teacher, *options))


def text_guided_student(scale: Scale) -> Training:
    """A student of LTD that learns from guided trajectories, with a learning rate that falls in the second half."""
    plain = text_student(scale, "ltd")
    guided = ("--lr-decay", "0.5", "--teacher-top-p", "0.9", "--teacher-guidance", "0.5")
    return Training("text/ltd-guided", (*plain.command, *guided))


def more_training(scale: Scale) -> Training:
    """The control: the masked teacher, trained further on the data for as many steps as the students."""
    recipe = {"cpu": MORE, "owt": ("--recipe", "mdlm", "--length", "1024")}
    options = (
        "--data",
        scale.data,
        *recipe[scale.name],
        "--lr",
        "3e-4",
        "--steps",
        str(ROUNDS * scale.steps_per_round),
    )
    return Training("text/nelbo", ("train", "--init", scale.teachers["mdlm"], *options))


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
    rows = ("--batch-size", "32", "--threads", "1", "--seed", str(seed))
    own = OWN_LANGUAGE_BUDGET.get(method) or (*_budget(rounds, LANGUAGE_ROUND), *_look_ahead(method))
    command = ("distill", method, "--teacher", f"@{teacher.name}", "--recipe", "cpu", *rows, *own)
    name = f"{language}/{method}{f'-{variant}' if variant else ''}-s{seed}"
    return Training(name, (*command, *options))  # of an option given twice the last one counts


def more_training_of_language(language: str, seed: int) -> Training:
    """The control: a masked teacher of a language, trained further for LANGUAGE_CONTROL steps."""
    models = ("--init", f"@{language_teacher(language, seed).name}", "--data", f"@data/{language}")
    options = (*MORE, "--lr", "3e-4", "--steps", str(LANGUAGE_CONTROL))
    return Training(f"{language}/nelbo-s{seed}", ("train", *models, *options, "--seed", str(seed)))


def _budget(rounds: int, steps_per_round: int) -> tuple[str, ...]:
    return ("--rounds", str(rounds), "--steps-per-round", str(steps_per_round))


def _look_ahead(method: str) -> tuple[str, ...]:
    """The first round's gap at 64 tokens per row is one token, also for SDTT's second teacher step.

    CD4LM's KL is taken where both are masked: a teacher that is trained only on masked tokens predicts noise where it
    sees the token. What the published method does there is one of our ablations.
    """
    return ("--region", "both") if method == "cd4lm" else ("--delta0", "0.015625")
