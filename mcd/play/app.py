"""The playground's pages (Gradio): controls around `race`, `infill` and `latent`, and what they show as HTML."""

from collections.abc import Iterator, Mapping
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.themes import Default

from mcd.api.model import Model
from mcd.errors import RequestError
from mcd.play import latent
from mcd.play.canvas import legend
from mcd.play.drawing import picture
from mcd.play.infill import fill, parts_of, words_of
from mcd.play.race import Lane, race
from mcd.process.unmasking import ORDERS
from mcd.sampler import SAMPLERS

UNSET = "default"
"""The choice of a sampler or an order that leaves it to the model."""
COLUMNS = 3
"""Models side by side, at most."""
TEMPLATE = "My fellow citizens, [MASK:24] peace with all nations."
TEXT = "Our relations with foreign powers remain friendly, and our people enjoy the blessings of peace."
SENTENCE = "The dogmas of the quiet past are inadequate to the stormy present."

_NETWORK: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": 1}
"""Of what calls a network: one request after the other, so that no time holds another's work."""


def app_of(models: Mapping[str, Model]) -> FastAPI:
    """The web application of a playground of models by their names. It loads nothing from other hosts."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "DejaVu Sans", "sans-serif"]
    mono = ["ui-monospace", "DejaVu Sans Mono", "monospace"]
    theme = Default(primary_hue="orange", font=fonts, font_mono=mono)
    css = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    app = FastAPI(openapi_url=None)
    return gr.mount_gradio_app(
        app, pages(models), path="/", theme=theme, css=css, footer_links=[], ssr_mode=False, run_history=False
    )


def pages(models: Mapping[str, Model]) -> gr.Blocks:
    """The three pages."""
    with gr.Blocks(title="mcd playground", analytics_enabled=False, fill_width=True) as blocks:
        with gr.Tab("Side by side"):
            _side_by_side(models)
        with gr.Tab("Fill in"):
            _fill_in(models)
        with gr.Tab("Duality"):
            _duality(models)
    return blocks


def _side_by_side(models: Mapping[str, Model]) -> None:
    names = list(models)
    gr.Markdown(
        "The same row, drawn from the same random numbers: what differs comes from the model and its number of steps."
    )
    with gr.Row():
        template = gr.Textbox(
            TEMPLATE,
            label="Template",
            info="[MASK:n] is a blank of n tokens. Empty: the model writes the whole row.",
            lines=2,
            scale=3,
            elem_id="template",
        )
        length = gr.Number(
            0, label="Length", info="tokens; 0: as the template", precision=0, minimum=0, elem_id="length"
        )
        seed = gr.Number(0, label="Seed", info="the same for all columns", precision=0, minimum=0, elem_id="seed")
    with gr.Row():
        temperature = gr.Slider(0.1, 2.0, 1.0, step=0.05, label="Temperature")
        top_p = gr.Slider(0.05, 1.0, 1.0, step=0.05, label="Top p")
        guidance = gr.Slider(0.0, 2.0, 0.0, step=0.05, label="Guidance")
        sampler = gr.Dropdown([UNSET, *SAMPLERS], label="Sampler", value=UNSET, elem_id="sampler")
        order = gr.Dropdown([UNSET, *ORDERS], label="Order", value=UNSET, elem_id="order")
    with gr.Row():
        go = gr.Button("Write", variant="primary", elem_id="write")
        again = gr.Button("Next seed", elem_id="next")
        stop = gr.Button("Stop")
    gr.HTML(legend())
    columns: list[Any] = []
    shown = []
    count = max(2, min(COLUMNS, len(names)))
    with gr.Row():
        for n in range(count):
            with gr.Column():
                steps = 8 if len(names) > 1 else (4, 32)[n]
                columns.append(gr.Dropdown(names, value=names[n % len(names)], label="Model", elem_id=f"model{n}"))
                columns.append(gr.Slider(1, 256, steps, step=1, label="Steps", elem_id=f"steps{n}"))
                shown.append(gr.HTML(_lane(Lane()), elem_id=f"lane{n}", elem_classes="lane"))

    def write(*values: Any) -> Iterator[list[str]]:
        template, length, seed, temperature, top_p, guidance, sampler, order, *chosen = values
        entries = [(models[name], int(steps)) for name, steps in zip(chosen[::2], chosen[1::2], strict=True)]
        how = _how(temperature, top_p, guidance, sampler, order) | {"length": _whole(length) or None}
        for lanes in race(entries, template or None, _whole(seed) or 0, **how):
            yield [_lane(lane) for lane in lanes]

    asked: list[Any] = [template, length, seed, temperature, top_p, guidance, sampler, order, *columns]
    drawing: dict[str, Any] = {"show_progress": "hidden", **_NETWORK}
    runs: list[Any] = [
        go.click(write, asked, shown, **drawing),
        template.submit(write, asked, shown, **drawing),
        again.click(lambda seed: (_whole(seed) or 0) + 1, seed, seed).then(write, asked, shown, **drawing),
    ]
    stop.click(None, cancels=runs)


def _fill_in(models: Mapping[str, Model]) -> None:
    gr.Markdown(
        "Click the words that the model shall write anew; all others stay as they are, to the byte. With candidates, "
        "as many rows are drawn, and those with the lowest bound by the model itself are shown."
    )
    text = gr.Textbox(TEXT, label="Text", lines=2, elem_id="text")
    words = gr.HighlightedText(
        _marked(TEXT, ()), label="Words", color_map={"anew": "orange"}, show_inline_category=False, elem_id="words"
    )
    blanked = gr.State(())
    with gr.Row():
        name = gr.Dropdown(list(models), value=[*models][-1], label="Model")
        steps = gr.Slider(1, 256, 8, step=1, label="Steps")
        num = gr.Slider(1, 8, 3, step=1, label="Rows")
        candidates = gr.Slider(0, 32, 0, step=1, label="Candidates", info="to rank; 0: none", elem_id="candidates")
        seed = gr.Number(0, label="Seed", precision=0, minimum=0)
    with gr.Row():
        temperature = gr.Slider(0.1, 2.0, 1.0, step=0.05, label="Temperature")
        top_p = gr.Slider(0.05, 1.0, 1.0, step=0.05, label="Top p")
        guidance = gr.Slider(0.0, 2.0, 0.0, step=0.05, label="Guidance")
        sampler = gr.Dropdown([UNSET, *SAMPLERS], label="Sampler", value=UNSET)
        order = gr.Dropdown([UNSET, *ORDERS], label="Order", value=UNSET)
    go = gr.Button("Fill in", variant="primary", elem_id="fill")
    shown = gr.HTML(elem_id="filled")

    def toggle(text: str, before: tuple[int, ...], event: gr.SelectData) -> Any:
        after = tuple(sorted({*before} ^ {int(event.index)}))
        return after, _marked(text, after)

    def filled(
        text: str, blanked: tuple[int, ...], name: str, steps: int, num: int, candidates: int, seed: Any, *own: Any
    ) -> str:
        if not blanked:
            return _refused("no word is to be written anew; click one")
        model = models[name]
        parts = parts_of(words_of(text), blanked, model.tokenizer)
        try:
            rows, seconds = fill(model, parts, num, candidates or None, steps, _whole(seed) or 0, **_how(*own))
        except RequestError as error:
            return _refused(str(error))
        cards = []
        for row in rows:
            bound = None if row.bound is None else f"{row.bound:.2f}"
            facts = {"row": row.row, "network calls": row.nfe, "bound in nats per written token": bound}
            cards.append(_facts(facts) + _paper(row.canvas.html()))
        return f'<p class="said">{seconds:.2f} s for all rows</p>' + "".join(cards)

    text.change(lambda text: ((), _marked(text, ())), text, [blanked, words])
    words.select(toggle, [text, blanked], [blanked, words])
    asked = [text, blanked, name, steps, num, candidates, seed, temperature, top_p, guidance, sampler, order]
    go.click(filled, asked, shown, **_NETWORK)


def _duality(models: Mapping[str, Model]) -> None:
    gr.Markdown(
        "Each token has a Gaussian latent w, with a coordinate for every token of the vocabulary: noise on all of them "
        "(grey: the largest rivals), and a signal on the token's own (orange), which fades as time goes on. **P(w)** "
        "shows the token while its own coordinate is the largest. The noise is drawn once; all of it that matters is "
        "one number per token, u, and **Mask(x, u, α)** shows the token while u ≤ α. Both rows agree at every level: "
        "masking is a projection of a Gaussian process."
    )
    with gr.Row():
        text = gr.Textbox(SENTENCE, label="Text", scale=3, elem_id="sentence")
        name = gr.Dropdown(list(models), value=next(iter(models)), label="Tokens of")
        seed = gr.Number(4, label="Seed of the noise", precision=0, minimum=0)
    with gr.Row():
        t = gr.Slider(0.0, 1.0, 0.5, step=0.005, label="Time t", info="0: the text, 1: noise", elem_id="time")
        root = gr.Slider(0.0, 10.0, 0.0, step=0.01, label="Root of the signal-to-noise ratio", elem_id="root")
    shown = gr.HTML(elem_id="duality")

    def draw(move: str, text: str, name: str, seed: Any, t: float, root: float) -> Any:
        try:
            one = latent.locked(models[name], text, _whole(seed) or 0)
        except RequestError as error:
            return t, root, _refused(str(error))
        level = latent.level_of_root(one, root) if move == "root" else latent.level_of_time(one, t)
        seen = latent.see(one, level)
        agree = int((seen.projected == seen.unmasked).sum())
        facts = {
            "t": f"{level.t:.3f}",
            "α, probability of being visible": f"{level.alpha:.3f}",
            "root of the SNR": f"{level.root:.2f}",
            "visible": f"{int(seen.projected.sum())} of {len(one.words)}",
            "where both rows agree": f"{agree} of {len(one.words)}",
        }
        html = _facts(facts) + f'<div class="duality">{picture(one, seen)}</div>'
        return round(level.t, 3), round(min(level.root, 10.0), 2), html

    asked, told = [text, name, seed, t, root], [t, root, shown]
    live: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
    t.input(partial(draw, "t"), asked, told, **live)
    root.input(partial(draw, "root"), asked, told, **live)
    gr.on([text.submit, name.change, seed.change], partial(draw, "t"), asked, told, **live)
    _, root.value, shown.value = draw("t", SENTENCE, next(iter(models)), 4, 0.5, 0.0)


def _how(temperature: float, top_p: float, guidance: float, sampler: str, order: str) -> dict[str, Any]:
    """Options of a sampler; what is left at its default is not given, so that any sampler takes it."""
    return {
        "temperature": None if temperature == 1.0 else temperature,
        "top_p": None if top_p == 1.0 else top_p,
        "guidance": None if guidance == 0.0 else guidance,
        "sampler": None if sampler == UNSET else sampler,
        "order": None if order == UNSET else order,
    }


def _whole(number: float | int | None) -> int | None:
    return None if number is None else int(number)


def _marked(text: str, blanked: tuple[int, ...]) -> list[tuple[str, str | float | None]]:
    return [(word, "anew" if i in blanked else None) for i, word in enumerate(words_of(text))]


def _lane(lane: Lane) -> str:
    """A lane as HTML: step, time, calls and seconds, and the canvas."""
    if lane.refused is not None:
        return _refused(lane.refused)
    if lane.canvas is None:
        return _paper("")
    facts = {
        "step": f"{lane.canvas.step} of {lane.canvas.steps}",
        "t": f"{lane.t:.3f}",
        "network calls": lane.nfe,
        "seconds": f"{lane.seconds:.2f}",
    }
    notes = "".join(f'<p class="said">{escape(note)}</p>' for note in lane.notes)
    return _facts(facts) + notes + _paper(lane.canvas.html())


def _facts(facts: Mapping[str, Any]) -> str:
    shown = (f"<div><span>{name}</span> <b>{value}</b></div>" for name, value in facts.items() if value is not None)
    return f'<div class="facts">{"".join(shown)}</div>'


def _paper(html: str) -> str:
    return f'<div class="canvas">{html}</div>'


def _refused(why: str) -> str:
    return f'<p class="refused">{escape(why)}</p>'
