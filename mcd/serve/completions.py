"""What `/v1/completions` takes and gives: OpenAI's fields, and those of diffusion."""

import secrets
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mcd.api.blank import Blank
from mcd.api.model import Model
from mcd.errors import UsageError
from mcd.options import LONGEST_ROW

Neutral = Annotated[float, Field(ge=0, le=0)]
Stop = Annotated[str, Field(min_length=1)]


class StreamOptions(BaseModel):
    """What clients ask of a stream. The usage is in the last event, asked for or not."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None


class CompletionRequest(BaseModel):
    """The body of a request. Fields that are not known are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=64)] | None = Field(
        None, description="Text before the blank; several texts are as many requests."
    )
    suffix: str | None = Field(None, description="Text after the blank.")
    template: str | None = Field(
        None, description="Text with [MASK] or [MASK:n] (n tokens) anywhere, in place of prompt, suffix and max_tokens."
    )
    max_tokens: Annotated[int, Field(ge=1, le=LONGEST_ROW)] | None = Field(None, description="Tokens of the blank: 16.")
    n: Annotated[int, Field(ge=1, le=128)] = Field(1, description="Rows of each prompt.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(None, description="By default a random one.")
    temperature: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None, description="0 takes the likeliest tokens, the surest first: sampler confidence, greedy."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    guidance: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None, description="How far the evidence of the visible tokens is sharpened, as of `mcd sample`: 0."
    )
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = Field(
        None, description="The text ends before the first of these. Not with a suffix or a template."
    )
    stream: bool = Field(False, description="Send the canvas after every step, as server-sent events.")
    echo: bool = Field(False, description="Begin the text with the prompt.")
    steps: Annotated[int, Field(ge=1, le=10_000)] | None = Field(None, description="Steps from noise to text: 32.")
    sampler: str | None = Field(None, description="As of `mcd sample`.")
    order: str | None = Field(None, description="In which order tokens are written: an option of some samplers.")
    user: str | None = Field(None, description="Ignored.")
    presence_penalty: Neutral | None = None
    frequency_penalty: Neutral | None = None
    logprobs: None = Field(None, description="A token that is not written from left to right has no such number.")
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = Field(None, description="As many as n.")
    stream_options: StreamOptions | None = None


class Choice(BaseModel):
    """A row. While streaming, `canvas` is the row so far, with `·` for each blank, at the time `t`, from 1 to 0."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None
    logprobs: None = None
    canvas: str | None = None
    t: float | None = None


class Usage(BaseModel):
    """What a request took. nfe: network calls of all rows; a call that rows share counts for each of them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    nfe: int


class Completion(BaseModel):
    """The answer, or one event of a stream. seed: the one that gives these rows again."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None
    seed: int


def blanks_of(body: CompletionRequest, model: Model) -> list[Blank]:
    """The prompts of a request, read and checked. Raises RequestError."""
    if body.best_of not in (None, body.n):
        raise UsageError("best_of: all n rows are given back; leave it out")
    how: dict[str, object] = {name: getattr(body, name) for name in ("steps", "sampler", "order", "top_p", "guidance")}
    if body.temperature == 0.0:
        how |= {"sampler": body.sampler or "confidence", "greedy": True}
    else:
        how["temperature"] = body.temperature
    if body.template is not None:
        for name in ("prompt", "suffix", "max_tokens", "stop"):
            if getattr(body, name) is not None:
                raise UsageError(f"{name}: has no place next to a template; leave one of them out")
        if body.echo:
            raise UsageError("echo: a template is always part of the text; leave it out")
        return [Blank(model.request(body.template, **how), None, False, (), False)]  # type: ignore[arg-type]
    if body.suffix and body.stop:
        raise UsageError("stop: the blank before a suffix is filled whole; leave one of them out")
    prompts = [body.prompt or ""] if body.prompt is None or isinstance(body.prompt, str) else body.prompt
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    blank, suffix = body.max_tokens or 16, body.suffix or ""
    return [
        Blank(model.request([prompt, blank, suffix], **how), prompt, not suffix, stops, body.echo)  # type: ignore[arg-type]
        for prompt in prompts
    ]


def seed_of(body: CompletionRequest) -> int:
    """The seed asked for, or a new one."""
    return secrets.randbelow(2**53) if body.seed is None else body.seed
