"""What samples are read against: held-out text, the same with its words shuffled, and nonsense tuned to its entropy."""

import json
from typing import Any

from mcd.eval.laboratory.lab import Lab
from mcd.eval.laboratory.measure import control_rows, held_out_rows
from mcd.reproduce.scales import Scale


def reference_rows(lab: Lab, scale: Scale) -> list[dict[str, Any]]:
    """The rows `text`, `shuffled`, `control-periodic` and `control-topk` of a scale's text, measured once."""
    from mcd.eval.scorer import load_scorer
    from mcd.files import write_json

    path = lab.work / "cells" / "references-borders-kept.json"
    if not path.is_file():
        scorer = load_scorer(scale.judges[0], scale.scorer_precision)
        folder = lab.work / "data" / "sotu"
        rows = held_out_rows(folder, scale.num, scale.length, 0, scorer)
        rows += control_rows(folder, scale.num, scale.length, 0, scorer)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"rows": rows})
    return json.loads(path.read_text(encoding="utf-8"))["rows"]
