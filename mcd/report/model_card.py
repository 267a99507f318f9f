"""The model card of a published model: what it is, how it was made, what was measured and how, and what may be done."""

from pathlib import Path
from typing import Any

import mcd
from mcd.eval.protocol import said_by
from mcd.files import JSONError, read_json
from mcd.table import is_number, markdown_table

PAPERS = {
    "mcd": ("2602.00792", "Latent Shadows: The Gaussian-Discrete Duality in Masked Diffusion", "Chen et al.", 2026),
    "mdlm": ("2406.07524", "Simple and Effective Masked Diffusion Language Models", "Sahoo et al.", 2024),
    "sdtt": (
        "2410.21035",
        "Beyond Autoregression: Fast LLMs via Self-Distillation Through Time",
        "Deschenaux et al.",
        2024,
    ),
    "duo": ("2506.10892", "The Diffusion Duality", "Sahoo et al.", 2025),
    "adapt": (
        "2410.17891",
        "Scaling Diffusion Language Models via Adaptation from Autoregressive Models",
        "Gong et al.",
        2024,
    ),
    "cd4lm": ("2601.02236", "CD4LM", "Liang et al.", 2026),
    "idlm": ("2602.19066", "IDLM: Inverse-distilled Diffusion Language Models", "Li et al.", 2026),
}
"""Papers by method: arXiv number, title, authors, year."""
_METHOD_PAPER = {"nelbo": "mdlm", "duo-dcd": "duo"}
SIZES = ("layers", "hidden", "heads", "length")
SIZES_OF_HUB = ("model_type", "num_hidden_layers", "hidden_size", "n_layers", "d_model", "n_layer", "n_embd")
_USE = """## How to use it

```bash
pip install mcd-lm
mcd sample {hub_id} --steps 16
```

```python
import mcd

model = mcd.from_pretrained("{hub_id}")
```
"""


def model_card(model: Path, hub_id: str, licence: str | None = None) -> str:
    """README.md for the model in a folder, from its config.json, run.json, origin.json, base.json and
    metrics.json.

    licence: an identifier the hub knows, such as apache-2.0; by default what origin.json says, or none. The card states
    what is not known.
    """
    config, run, origin, base, metrics = (
        _object(model / name) for name in ("config.json", "run.json", "origin.json", "base.json", "metrics.json")
    )
    asked, rows = _section(run, "config"), metrics.get("rows")
    licence = licence or origin.get("licence")
    parts = [
        _front(licence, asked, origin),
        f"# {hub_id.rstrip('/').split('/')[-1]}\n",
        _what(config, origin),
        _made(asked, origin, base, bool(_section(config, "mcd").get("base"))),
        _figures(rows if isinstance(rows, list) else []),
        _USE.format(hub_id=hub_id),
        f"## Licence\n\n{licence or 'Not stated by those who published this model.'}\n",
        _papers(asked, origin),
    ]
    return "\n".join(parts)


def _object(path: Path) -> dict[str, Any]:
    """The object in a file of JSON; {} where there is none."""
    try:
        value = read_json(path, strict=False)
    except (OSError, JSONError):
        return {}
    return value if isinstance(value, dict) else {}


def _section(value: dict[str, Any], key: str) -> dict[str, Any]:
    """The object under a key; {} where there is none."""
    section = value.get(key)
    return section if isinstance(section, dict) else {}


def _last(name: Any) -> str:
    """A hub id unchanged; the last part of a path, since the rest belongs to one machine."""
    text = str(name)
    is_path = text.startswith((".", "/", "~")) or text.count("/") != 1 or Path(text).exists()
    return Path(text).name if is_path else text


def _front(licence: str | None, run: dict[str, Any], origin: dict[str, Any]) -> str:
    """The YAML that the hub reads."""
    from huggingface_hub import ModelCardData

    base = run.get("teacher") or run.get("base") or origin.get("source")
    data = ModelCardData(
        library_name="mcd-lm",
        pipeline_tag="text-generation",
        tags=["masked-diffusion", "discrete-diffusion", "few-step"],
        license=licence,
        base_model=_last(base) if isinstance(base, str) and "/" in _last(base) else None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _what(config: dict[str, Any], origin: dict[str, Any]) -> str:
    backbone, adapted = _section(config, "backbone"), "model_type" in config  # the key of Hugging Face; always masked
    masked = adapted or config.get("mask_id") is not None
    kind = "autoregressive" if backbone.get("causal") else "masked diffusion" if masked else "uniform diffusion"
    if config.get("locked") or _section(config, "mcd").get("locked"):
        kind += " (of locked noise: --sampler locked)"
    shown = SIZES_OF_HUB if adapted else SIZES
    sizes = ", ".join(f"{key} {value}" for key, value in (config if adapted else backbone).items() if key in shown)
    text = f"A {kind} language model ({sizes or 'sizes in config.json'}), in the format of `mcd` {mcd.__version__}.\n"
    if origin:
        made = origin.get("revision") or origin.get("commit")
        text += (
            f"\nImported from {_last(origin.get('source'))}{f' at {made}' if made else ''} ({origin.get('layout')}; "
            f"weights: {origin.get('weights')}); `origin.json` has the details.\n"
        )
    return text


def _made(run: dict[str, Any], origin: dict[str, Any], base: dict[str, Any], only_factors: bool) -> str:
    objective, train, lora = (_section(run, key) for key in ("objective", "train", "lora"))
    if not objective:
        return "" if origin else "## How it was made\n\nNot recorded in its folder.\n"
    options = ", ".join(f"{key} {value}" for key, value in objective.items() if key != "name")
    lines = ["## How it was made", "", f"- Method: {objective.get('name')}{f' ({options})' if options else ''}"]
    if lora:
        rank = lora.get("lora_rank")
        where = "it is merged into the weights, and `adapter/` holds it by itself"
        if only_factors:
            where = "only its factors are here; the weights that they are added to are fetched from the base model"
        lines.append(f"- LoRA of rank {rank}: {where}")
    if run.get("base"):
        own = (
            f"; {base['valid_bpb']:.3f} bits per byte on the validation rows"
            if is_number(base.get("valid_bpb"))
            else ""
        )
        lines.append(f"- Base: {_last(run['base'])}, autoregressive (weights, SHA-256 {run.get('base_sha256')}){own}")
    if run.get("teacher"):
        lines.append(f"- Teacher: {_last(run['teacher'])} (weights: {run.get('weights', 'ema')})")
    data = _last(run["data"]) if run.get("data") else "what the teacher was trained on"
    digest = run.get("data_sha256")
    lines.append(f"- Training data: {data}{f' (tokens, SHA-256 {digest})' if digest else ''}")
    shown = ("rounds", "steps", "minutes", "batch_size", "length", "lr", "warmup", "ema", "precision", "seed")
    budget = ", ".join(f"{key} {train[key]}" for key in shown if train.get(key) is not None)
    lines.append(f"- Training: {budget or 'see the method'}")
    return "\n".join(lines) + "\n"


def _figures(rows: list[Any]) -> str:
    """Measured rows with their protocols: of samples, a Gen PPL only with its entropy; of the likelihood of text."""
    whole = [row for row in rows if isinstance(row, dict) and isinstance(row.get("protocol"), dict)]
    stamps: dict[str, int] = {}
    tables = [table for table in (_of_samples(whole, stamps), _of_likelihoods(whole, stamps)) if table]
    if not tables:
        return "## Figures\n\nNone were published with this model.\n"
    notes = "".join(f"[{number}] {stamp}  \n" for stamp, number in stamps.items())
    return "## Figures\n\n" + "\n".join([*tables, notes])


def _of_samples(rows: list[dict[str, Any]], stamps: dict[str, int]) -> str:
    lines = []
    for row in rows:
        if not all(is_number(row.get(key)) for key in ("gen_ppl", "entropy", "steps")):
            continue
        nfe = f"{row['nfe']:.1f}" if is_number(row.get("nfe")) else ""
        cells = [_last(row.get("model", "")), str(row.get("round") or ""), str(row["steps"]), nfe]
        lines.append([*cells, _with_interval(row, "gen_ppl", 1), f"{row['entropy']:.3f}", _note(row, stamps)])
    headings = ("model", "round", "steps", "NFE", "Gen PPL (95 % interval)", "entropy, nats", "protocol")
    advice = "Gen PPL falls when text repeats itself: read it together with the entropy."
    return f"{advice}\n\n{markdown_table(headings, lines)}" if lines else ""


def _of_likelihoods(rows: list[dict[str, Any]], stamps: dict[str, int]) -> str:
    lines = []
    for row in rows:
        if not (is_number(row.get("valid_nelbo")) and is_number(row.get("valid_ppl"))):
            continue
        per_byte = _with_interval(row, "valid_bpb", 3) if is_number(row.get("valid_bpb")) else ""
        cells = [_last(row.get("model", "")), _last(row.get("text", "")), f"{row['valid_nelbo']:.3f}"]
        cells += [f"{row['valid_ppl']:.1f}", per_byte + " of the decoded text" * bool(row.get("bytes_of"))]
        lines.append([*cells, "exact" if row.get("exact") is True else "bound", _note(row, stamps)])
    headings = ("model", "text", "nats per token", "PPL", "bits per byte (95 % interval)", "kind", "protocol")
    advice = "Of models with different tokenizers, only the bits per byte of a text compare."
    return f"{advice}\n\n{markdown_table(headings, lines)}" if lines else ""


def _with_interval(row: dict[str, Any], key: str, digits: int) -> str:
    """A number of a row with its interval, where it has one."""
    lo, hi = row.get(f"{key}_lo"), row.get(f"{key}_hi")
    interval = f" ({lo:.{digits}f} to {hi:.{digits}f})" if is_number(lo) and is_number(hi) else ""
    return f"{row[key]:.{digits}f}{interval}"


def _note(row: dict[str, Any], stamps: dict[str, int]) -> str:
    """The mark of a row's protocol; `stamps` numbers them in the order in which they come."""
    said = said_by(row["protocol"]).items()
    stamp = ", ".join(f"{key} {value}" for key, value in said if value is not None and key != "digest")
    return f"[{stamps.setdefault(stamp, len(stamps) + 1)}]"


def _papers(run: dict[str, Any], origin: dict[str, Any]) -> str:
    method = str(_section(run, "objective").get("name", ""))
    family = str(origin.get("layout", "")).split("-")[0]
    wanted = {_METHOD_PAPER.get(method, method), family, "mdlm"} | (set() if origin and not method else {"mcd"})
    lines = ["## To cite", ""]
    for key, (number, title, authors, year) in PAPERS.items():
        if key in wanted:
            lines.append(f"- {authors}, {year}: {title}. [arXiv:{number}](https://arxiv.org/abs/{number})")
    return "\n".join(lines) + "\n"
