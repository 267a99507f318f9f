"""Datasets of the Hugging Face hub, streamed: nothing is stored in between."""

from collections.abc import Iterator
from typing import Any

from mcd.data.recipe import Recipe
from mcd.errors import DataError, HubError
from mcd.hub_access import hub_access


class HubRecords:
    """The rows of the dataset of a recipe in the order of its files, as tuples of its fields: iterate over it once.

    recipe.revision: a branch, tag or commit (`commit_of`). start: a `position` of an earlier reading of that commit,
    from which it continues; whole files before it are not fetched again. known: what else the name could have been.
    Raises DataError for what is no dataset or has no such fields, HubError where the hub stops midway.
    """

    def __init__(self, recipe: Recipe, start: Any, known: str = "not on this machine"):
        self.recipe, name, split = recipe, recipe.data, recipe.split
        try:
            import datasets
        except ImportError:
            raise DataError(
                f"--data {name}: {known}; for a dataset of the Hugging Face hub, pip install 'mcd-lm[hub]'"
            ) from None
        with hub_access() as access:
            try:
                self.rows: Any = datasets.load_dataset(
                    name, recipe.subset, split=split, revision=recipe.revision, streaming=True
                )
                if start is not None:
                    self.rows.load_state_dict(start["state"])
            except Exception as error:  # the hub client raises many kinds; all mean the same to the user
                asked = f"subset {recipe.subset} split {split}" if recipe.subset else f"split {split}"
                raise DataError(f"--data {name} ({asked}): {known}, and {access.refusal(error)}") from None
        self.count = 0 if start is None else start["count"]
        info = getattr(self.rows.info, "splits", None) or {}
        self.total = getattr(info.get(split), "num_examples", None)

    @property
    def place(self) -> str:
        """Dataset and row, as messages begin."""
        return f"--data {self.recipe.data}, row {self.count}"

    @property
    def fraction(self) -> float | None:
        """The share of the rows that was read, where the dataset says how many it has."""
        return min(1.0, self.count / self.total) if self.total else None

    def position(self) -> Any:
        """The position of the next row."""
        return {"count": self.count, "state": self.rows.state_dict()}

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        rows, name, fields = iter(self.rows), self.recipe.data, self.recipe.fields
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except Exception as error:
                raise HubError(
                    f"--data {name}: the hub stopped after {self.count} rows ({type(error).__name__}: {error}); "
                    "run the same command again, which continues from what is finished"
                ) from error
            self.count += 1
            for field in fields:
                if field not in row:
                    raise DataError(f"--data {name}: its rows have no {field!r}; they have {', '.join(row)}")
            yield tuple(row[field] for field in fields)


def commit_of(name: str, revision: str | None) -> str | None:
    """The commit of a revision of a dataset at this time; None when the hub cannot be asked."""
    try:
        from huggingface_hub import HfApi

        with hub_access():
            return HfApi().dataset_info(name, revision=revision).sha
    except Exception:  # offline, or a mirror without that call: reading will report it
        return None
