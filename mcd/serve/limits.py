"""What a server accepts."""

from dataclasses import dataclass

from mcd.options import Count, Options, Positive, RowLength


@dataclass(frozen=True)
class Limits(Options):
    """How much a server accepts; what is beyond is refused, and nothing that was accepted is dropped."""

    queue: Count = 256
    """Rows that are accepted and not done. Requests beyond get status 429, and when to come back."""
    timeout: Positive = 300.0
    """Seconds that a request may take."""
    max_body: Count = 1 << 20
    """Bytes of the body of a request."""
    max_length: RowLength | None = None
    """Tokens of a row; by default the longest of the model. Longer rows are drawn in windows."""
