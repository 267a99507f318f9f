"""`mcd push`: a model to the Hugging Face hub, with a model card."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from mcd.cli.arguments import check_empty, check_out, naming, parse, show_dry_run
from mcd.cli.idle_options import refuse_idle
from mcd.errors import UsageError


@dataclass(frozen=True)
class PushArgs:
    """Upload a model to the Hugging Face hub in one commit: configuration, weights, tokenizer, and a model card.

    The card is made from the records in the folder: method, teacher, data, figures of its metrics.json with their
    protocol, licence, papers. With a path instead of the hub id (./FOLDER or file://FOLDER), the same files are
    written there, so that you can check them first. Log in with `hf auth login`, or set HF_TOKEN.

    Examples:
      mcd push runs/student ./to-be-pushed
      mcd push runs/student me/my-student --private --license apache-2.0
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """MODEL: a folder, a hub id, or demo."""
    hub_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="HUB_ID")]
    """HUB_ID: OWNER/NAME, or a path such as ./FOLDER."""
    private: bool = False
    """Make a new repository private."""
    revision: str = "main"
    """Branch of the hub; it is created if it does not exist."""
    license: str | None = None
    """Licence for the card, such as apache-2.0; by default that of the imported checkpoint, or none."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""


def main(argv: list[str]) -> int:
    args = parse(PushArgs, argv, "push")
    from mcd.checkpoints.hub import HUB_ID, is_folder_name, published, push_to_hub, write_published
    from mcd.checkpoints.locate import locate

    local = is_folder_name(args.hub_id)
    if not local and not HUB_ID.fullmatch(args.hub_id):
        raise UsageError(f"HUB_ID {args.hub_id}: no hub id; give OWNER/NAME, or a path such as ./FOLDER")
    if local:
        why = f"{args.hub_id} is a folder here, and no repository of the hub"
        refuse_idle(argv, dict.fromkeys(("--private", "--revision"), why))
    out = Path(args.hub_id.removeprefix("file://")).expanduser() if local else None
    if out is not None:
        check_out(out, folder=True, option="HUB_ID")
        check_empty(out, f"HUB_ID {args.hub_id}")
    if args.dry_run:
        return show_dry_run(asdict(args))
    from mcd.report.model_card import model_card

    with naming("MODEL", args.model):
        folder = locate(args.model)
    name = f"OWNER/{out.resolve().name}" if out is not None else args.hub_id
    files = published(folder, model_card(folder, name, args.license))
    if out is None:
        where = push_to_hub(files, args.hub_id, args.private, args.revision)
        print(f"{', '.join(files)}: pushed, {where}")
        return 0
    write_published(files, out)
    print(f"{', '.join(files)}: written to {out}")
    return 0
