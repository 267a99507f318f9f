"""Datasets of the Hugging Face hub, streamed: nothing is stored on the way."""

from collections.abc import Iterator
from typing import Any

from mcd.errors import DataError
from mcd.hub_access import hub_access


class HubStopped(RuntimeError):
    """The hub stopped giving rows midway; what was prepared is kept."""


class HubRecords:
    """The rows of a dataset in the order of its files, as tuples of the values of `fields`: iterate over it once.

    revision: a branch, tag or commit; `commit_of` tells which commit that is. start: a `position` of an earlier
    reading of that commit, from which it goes on; whole files before it are not fetched again. known: what else the
    name could have been. Raises DataError for what is no dataset or has no such fields, HubStopped later.
    """

    def __init__(
        self,
        name: str,
        fields: tuple[str, ...],
        subset: str | None,
        split: str,
        revision: str | None,
        start: Any,
        known: str = "not on this machine",
    ):
        self.name, self.fields = name, fields
        datasets = _datasets(name, known)
        with hub_access() as access:
            try:
                self.rows = datasets.load_dataset(name, subset, split=split, revision=revision, streaming=True)
                if start is not None:
                    self.rows.load_state_dict(start["state"])
            except Exception as error:  # the hub client raises many kinds; all mean the same to the user
                asked = " ".join(f"{what} {value}" for what, value in (("subset", subset), ("split", split)) if value)
                raise DataError(f"--data {name} ({asked}): {known}, and {access.refusal(error)}") from None
        self.count = 0 if start is None else start["count"]
        info = getattr(self.rows.info, "splits", None) or {}
        self.rows_in_all = getattr(info.get(split), "num_examples", None)

    @property
    def place(self) -> str:
        """Dataset and row, as messages begin."""
        return f"--data {self.name}, row {self.count}"

    @property
    def fraction(self) -> float | None:
        """The share of the rows that was read, where the dataset says how many it has."""
        return min(1.0, self.count / self.rows_in_all) if self.rows_in_all else None

    def position(self) -> Any:
        """Where the next row stands."""
        return {"count": self.count, "state": self.rows.state_dict()}

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        rows = iter(self.rows)
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except Exception as error:
                raise HubStopped(
                    f"--data {self.name}: the hub stopped after {self.count} rows ({type(error).__name__}: {error}); "
                    "run the same command again, it goes on from what is finished"
                ) from error
            self.count += 1
            missing = [field for field in self.fields if field not in row]
            if missing:
                raise DataError(f"--data {self.name}: its rows have no {missing[0]!r}; they have {', '.join(row)}")
            yield tuple(row[field] for field in self.fields)


def commit_of(name: str, revision: str | None) -> str | None:
    """The commit that a revision of a dataset is now; None when the hub cannot be asked."""
    try:
        from huggingface_hub import HfApi

        with hub_access():
            return HfApi().dataset_info(name, revision=revision).sha
    except Exception:  # offline, a mirror without that call: reading will tell
        return None


def _datasets(name: str, known: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"--data {name}: {known}; for a dataset of the Hugging Face hub, pip install 'mcd-lm[hub]'"
        ) from None
    return datasets
