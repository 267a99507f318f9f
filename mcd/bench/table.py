"""The rows of a benchmark on the terminal."""

from typing import Any

HEADINGS = ("ours s", "peers s", "ratio", "ours MB", "peers MB", "ratio")


def print_table(rows: list[dict[str, Any]]) -> None:
    """Times and memory of all rows; then what shows that both sides did the same work, where both have losses."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    def table(first: str, headings: tuple[str, ...]) -> Table:
        made = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        made.add_column(first, no_wrap=True)
        for heading in headings:
            made.add_column(heading, justify="right", no_wrap=True)
        return made

    console = Console()
    times = table("name", HEADINGS)
    for row in rows:
        times.add_row(row["name"], *_cells(row))
    console.print(times)
    same = [row for row in rows if row.get("losses_differ_by") is not None]
    if same:
        losses = table("first loss of", ("ours", "peers", "they differ by"))
        for row in same:
            numbers = (f"{row['ours_loss']:.6f}", f"{row['peers_loss']:.6f}", f"{row['losses_differ_by']:.1e}")
            losses.add_row(row["name"], *numbers)
        console.print(losses)
    shares = [row for row in rows if "ours_of_peak" in row]
    if shares:
        products = table("matrix products of", ("share of time", "GFLOP/s", "at their best", "share", "large"))
        for row in shares:
            for side in ("ours", "peers"):
                rates = (f"{row[f'{side}_gflops']:.0f}", f"{row[f'{side}_peak_gflops']:.0f}")
                parts = f"{row[f'{side}_share']:.0%}", *rates, f"{row[f'{side}_of_peak']:.0%}"
                products.add_row(f"{row['name']}, {side}", *parts, f"{row['large_gflops']:.0f}")
        console.print(products)
    for how in dict.fromkeys(row["how"] for row in rows if row["name"].startswith("sample") and "how" in row):
        names = ", ".join(row["name"] for row in rows if row.get("how") == how)
        console.print(f"{how}: {names}", highlight=False)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    seconds = ("-" if row[key] is None else f"{row[key]:.3g}" for key in ("ours_s", "peers_s"))
    megabytes = ("-" if row[key] is None else f"{row[key] / 1e6:,.0f}" for key in ("ours_bytes", "peers_bytes"))
    smaller = "-"
    if row["ours_bytes"] and row["peers_bytes"]:
        smaller = f"{row['peers_bytes'] / row['ours_bytes']:.2f}"
    return (*seconds, "-" if row["ratio"] is None else f"{row['ratio']:.2f}", *megabytes, smaller)
