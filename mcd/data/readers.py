"""Files of records, each read once from front to back: .txt, .jsonl, .parquet and .arrow.

A .txt and a .jsonl may be compressed (.gz, .xz, .zst). Faults name the file and the line or row.
"""

import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

SUFFIXES = (".txt", ".jsonl", ".parquet", ".arrow")
COMPRESSED = (".gz", ".xz", ".zst")
BATCH_ROWS = 256
"""Rows of a .parquet or .arrow made into Python objects at a time."""


class DataError(ValueError):
    """Input that cannot be used as text; the message names the file and the mend."""


def suffix_of(path: Path) -> str:
    """What kind of file a name says it is, compression aside."""
    return Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


class FileRecords:
    """The records of a file, in order: iterate over it once.

    Each is a tuple of the values of `fields` (of a .txt, whose documents are parted by blank lines, the text alone).
    skip: records passed over. `number` is the line (.txt, .jsonl) or row that was read last, counted from 1, `count`
    how many records were read, `fraction` the share of the file read so far.
    Raises DataError for what is no such file, has no such fields, or holds nothing.
    """

    def __init__(self, path: Path, fields: tuple[str, ...], skip: int = 0):
        self.path, self.fields, self.skip = path, fields, skip
        self.number = 0
        self.count = skip
        self._raw: io.BufferedReader | None = None
        self._share = 0.0

    @property
    def place(self) -> str:
        """File and line of the last record, as messages begin."""
        return f"--data {self.path}, {'line' if suffix_of(self.path) in ('.txt', '.jsonl') else 'row'} {self.number}"

    @property
    def fraction(self) -> float:
        """The share of the file that was read, in [0, 1]."""
        if self._raw is not None and not self._raw.closed:
            return self._raw.tell() / max(1, self.path.stat().st_size)
        return self._share

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        readers = {".txt": self._txt, ".jsonl": self._jsonl, ".parquet": self._parquet, ".arrow": self._arrow}
        reader = readers.get(suffix_of(self.path))
        if reader is None:
            raise DataError(
                f"--data {self.path}: not one of {', '.join(SUFFIXES)} ({', '.join(COMPRESSED)} may follow)"
            )
        found = self.skip > 0
        try:
            for values in reader():
                self.count += 1
                found = found or any(value.strip() if isinstance(value, str) else value for value in values)
                yield values
        except UnicodeDecodeError:
            raise DataError(f"{self.place}: not UTF-8 text; is it a binary file?") from None
        except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"--data {self.path}: damaged compressed file ({error})") from None
        except OSError as error:
            if error.errno is not None or self.path.suffix != ".zst":
                raise
            raise DataError(f"--data {self.path}: damaged compressed file ({error})") from None
        if not found:
            raise DataError(f"--data {self.path}: holds no text")

    def _lines(self) -> Iterator[str]:
        self.number = 1
        with self.path.open("rb") as self._raw:
            for line in self._decompressed(self._raw):
                text = line.decode("utf-8")
                if "\0" in text:
                    raise DataError(f"{self.place}: holds NUL bytes; is it a binary file?")
                if self.number == 1:
                    text = text.removeprefix("\ufeff")
                for part in io.StringIO(text, newline=None) if "\r" in text else (text,):
                    yield part
                    self.number += 1
        self._share = 1.0

    def _decompressed(self, raw: io.BufferedReader) -> io.BufferedReader:
        if self.path.suffix == ".gz":
            return io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 20)
        if self.path.suffix == ".xz":
            return io.BufferedReader(lzma.LZMAFile(raw), 1 << 20)
        if self.path.suffix == ".zst":
            pyarrow = _pyarrow(self.path)
            return io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd"), 1 << 20)
        return raw

    def _txt(self) -> Iterator[tuple[str]]:
        return islice(self._paragraphs(), self.skip, None)

    def _paragraphs(self) -> Iterator[tuple[str]]:
        if len(self.fields) != 1:
            raise DataError(f"--data {self.path}: a .txt has no fields; give .jsonl, .parquet or .arrow")
        lines: list[str] = []
        for line in self._lines():
            if line.strip():
                lines.append(line)
            elif lines:
                yield ("".join(lines).rstrip("\n"),)
                lines = []
        if lines:
            yield ("".join(lines).rstrip("\n"),)

    def _jsonl(self) -> Iterator[tuple[Any, ...]]:
        passed = 0
        for line in self._lines():
            if not line.strip():
                continue
            passed += 1
            if passed <= self.skip:
                continue
            try:
                record = json.loads(line)
                values = tuple(record[field] for field in self.fields)
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                fields = " and ".join(repr(field) for field in self.fields)
                raise DataError(
                    f"{self.place}: no JSON object with a {fields} field; name it: mcd prepare --text-field, or "
                    "--prompt-field and --messages-field of instruction data"
                ) from error
            except (ValueError, RecursionError) as error:  # a number of too many digits, or brackets in brackets
                raise DataError(f"{self.place}: JSON that cannot be read ({error})") from None
            yield values

    def _parquet(self) -> Iterator[tuple[Any, ...]]:
        pyarrow = _pyarrow(self.path)
        import pyarrow.parquet as parquet

        try:
            with parquet.ParquetFile(self.path, buffer_size=1 << 20) as file:
                self._check_columns(file.schema_arrow.names)
                for batch in file.iter_batches(columns=list(self.fields), batch_size=BATCH_ROWS):
                    yield from self._table(batch)
                    self._share = self.number / max(1, file.metadata.num_rows)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._no("a parquet", error) from None

    def _arrow(self) -> Iterator[tuple[Any, ...]]:
        pyarrow = _pyarrow(self.path)
        try:
            with pyarrow.memory_map(str(self.path)) as mapped:
                seekable = mapped.read(6) == b"ARROW1"
                mapped.seek(0)
                file = pyarrow.ipc.open_file(mapped) if seekable else pyarrow.ipc.open_stream(mapped)
                self._check_columns(file.schema.names)
                for batch in (file.get_batch(i) for i in range(file.num_record_batches)) if seekable else file:
                    batch.validate(full=True)  # a file that lies must not be followed out of memory
                    for start in range(0, len(batch), BATCH_ROWS):
                        yield from self._table(batch.slice(start, BATCH_ROWS))
                    self._share = mapped.tell() / max(1, mapped.size())
        except (pyarrow.ArrowException, OSError) as error:
            raise self._no("an arrow", error) from None

    def _check_columns(self, names: list[str]) -> None:
        for field in self.fields:
            if field not in names:
                raise DataError(f"--data {self.path}: no column {field!r}; it has {', '.join(names)}")

    def _table(self, batch: Any) -> Iterator[tuple[Any, ...]]:
        """Rows of a record batch, as Python values."""
        if self.number + len(batch) <= self.skip:
            self.number += len(batch)
            return
        columns = [batch.column(batch.schema.get_field_index(field)).to_pylist() for field in self.fields]
        for values in zip(*columns, strict=True):
            self.number += 1
            if self.number > self.skip:
                yield tuple("" if value is None else value for value in values)

    def _no(self, kind: str, error: Exception) -> Exception:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        return DataError(f"--data {self.path}: not {kind} file ({error})")


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise DataError(f"--data {path}: {path.suffix[1:]} needs pyarrow; pip install 'mcd-lm[hub]'") from None
    return pyarrow
