"""Files of records, each read once from front to back: .txt, .jsonl, .json, .parquet and .arrow.

The first three may be compressed (.gz, .bz2, .xz, .zst). Faults name the file and the line, record or row.
"""

import bz2
import codecs
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from mcd.data.prepare.json_stream import CutOff, json_values
from mcd.errors import DataError

SUFFIXES = (".txt", ".jsonl", ".json", ".parquet", ".arrow")
_PLACES = {".txt": "line", ".jsonl": "line", ".json": "record"}
BATCH_ROWS = 256
"""Rows of a .parquet or .arrow made into Python objects at a time."""

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def suffix_of(path: Path) -> str:
    """What kind of file a name says it is, compression and case aside."""
    return (Path(path.stem).suffix if packed_as(path) else path.suffix).lower()


def packed_as(path: Path) -> str:
    """The suffix of a compressed file; "" of any other."""
    suffix = path.suffix.lower()
    return suffix if suffix in COMPRESSED else ""


def unpacked(path: Path, raw: io.BufferedReader) -> io.BufferedReader:
    """The content of the file at `path`, open as `raw`. Raises DataError for a .zst without pyarrow."""
    match packed_as(path):
        case ".gz":
            content: Any = gzip.GzipFile(fileobj=raw)
        case ".bz2":
            content = bz2.BZ2File(raw)
        case ".xz":
            content = lzma.LZMAFile(raw)  # noqa: SIM115 - closed with `raw`
        case ".zst":
            content = pyarrow_for(path).CompressedInputStream(raw, "zstd")
        case _:
            return raw
    return io.BufferedReader(content, 1 << 20)


def pyarrow_for(path: Path) -> Any:
    """The module pyarrow. Raises DataError, which says how to install it, where it is missing."""
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise DataError(f"--data {path}: {path.suffix[1:].lower()} needs pyarrow; pip install 'mcd-lm[hub]'") from None
    return pyarrow


class FileRecords:
    """The records of a file, in order: iterate over it once.

    Each is a tuple of the values of `fields` (of a .txt, whose documents are separated by blank lines, the text alone);
    what is null there is None. A .json is one list of objects, or objects one after the other; where one field is read,
    a string counts as an object with that field.
    skip: records passed over. `number` is the line (.txt, .jsonl), record (.json) or row that was read last, counted
    from 1, `count` how many records were read, `fraction` the share of the file read so far.
    Raises DataError for what is no such file, has no such fields or two of one name, or holds nothing.
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
        return f"--data {self.path}, {_PLACES.get(suffix_of(self.path), 'row')} {self.number}"

    @property
    def fraction(self) -> float:
        """The share of the file that was read, in [0, 1]."""
        if self._raw is not None and not self._raw.closed:
            return self._raw.tell() / max(1, self.path.stat().st_size)
        return self._share

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        read = (self._txt, self._jsonl, self._json, self._parquet, self._arrow)
        readers = dict[str, Any](zip(SUFFIXES, read, strict=True))
        reader = readers.get(suffix_of(self.path))
        if reader is None:
            kinds = f"{', '.join(SUFFIXES)} ({', '.join(COMPRESSED)} may follow)"
            raise DataError(f"--data {self.path}: not one of {kinds}")
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
            if error.errno is not None or packed_as(self.path) not in (".bz2", ".zst"):
                raise
            raise DataError(f"--data {self.path}: damaged compressed file ({error})") from None
        finally:
            if self._raw is not None:
                self._raw.close()  # a fault keeps the generators that read it alive
        if not found:
            raise DataError(f"--data {self.path}: holds no text")

    def _lines(self) -> Iterator[str]:
        self.number = 1
        with self.path.open("rb") as self._raw:
            for line in unpacked(self.path, self._raw):
                text = self._decoded(line)
                if self.number == 1:
                    text = text.removeprefix("\ufeff")
                if text.endswith("\r\r\n"):  # "\r\n" that was written as text on Windows: one end of line
                    text = text.rstrip("\r\n") + "\n"
                for part in io.StringIO(text, newline=None) if "\r" in text else (text,):
                    yield part
                    self.number += 1
        self._share = 1.0

    def _decoded(self, line: bytes) -> str:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data" and not line.endswith(b"\n"):
                raise self._cut("a character (or is no UTF-8)") from None
            raise
        self._check_nul(text)
        return text

    def _check_nul(self, text: str) -> None:
        if "\0" in text:
            raise DataError(f"{self.place}: holds NUL bytes; is it a binary file?")

    def _cut(self, what: str) -> DataError:
        return DataError(f"{self.place}: the file ends in the middle of {what}; was it cut off? fetch it again")

    def _chunks(self) -> Iterator[str]:
        """The text of a file in pieces of any length but 0."""
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        with self.path.open("rb") as self._raw:
            content = unpacked(self.path, self._raw)
            while data := content.read(1 << 18):
                if text := decoder.decode(data):
                    self._check_nul(text)
                    yield text
            if decoder.getstate()[0]:
                raise self._cut("a character (or is no UTF-8)")
        self._share = 1.0

    def _txt(self) -> Iterator[tuple[str]]:
        if len(self.fields) != 1:
            raise DataError(f"--data {self.path}: a .txt has no fields; give .jsonl, .parquet or .arrow")
        passed = 0
        for written, lines in groupby(self._lines(), lambda line: bool(line.strip())):
            text = "".join(lines)
            passed += written
            if written and passed > self.skip:
                yield (text.rstrip("\n"),)

    def _jsonl(self) -> Iterator[tuple[Any, ...]]:
        passed, decoder = 0, self._decoder()
        for line in self._lines():
            if not line.strip():
                continue
            passed += 1
            if passed <= self.skip:
                continue
            try:
                yield self._values(decoder.decode(line))
            except (ValueError, RecursionError) as error:
                raise self._json_fault(error, cut=not line.endswith("\n")) from None

    def _json(self) -> Iterator[tuple[Any, ...]]:
        self.number = 1
        try:
            for value in self.objects():
                if self.number > self.skip:
                    yield self._values(value)
                self.number += 1
        except (ValueError, RecursionError) as error:
            raise self._json_fault(error, cut=isinstance(error, CutOff)) from None

    def objects(self) -> Iterator[Any]:
        """The values of a .json. Raises ValueError, whose kind says more, where it is damaged."""
        return (value for _, value in json_values(self._chunks(), self._decoder()))

    def _decoder(self) -> json.JSONDecoder:
        return json.JSONDecoder(object_pairs_hook=self._each_field_once)

    def _json_fault(self, error: Exception, cut: bool) -> Exception:
        if isinstance(error, DataError | UnicodeDecodeError):
            return error
        if isinstance(error, json.JSONDecodeError) and not cut:
            if suffix_of(self.path) == ".json":
                return DataError(f"{self.place}: no JSON object ({error.msg}, line {error.lineno})")
            fix = "a .jsonl has an object per line; lists and objects of several lines are read from a file named .json"
            return DataError(f"{self.place}: no JSON object ({error.msg}, column {error.colno}); {fix}")
        if cut and not isinstance(error, RecursionError):
            return self._cut("a JSON object or list")
        return DataError(f"{self.place}: JSON that cannot be read ({error})")  # too many digits, brackets in brackets

    def _values(self, record: Any) -> tuple[Any, ...]:
        if isinstance(record, str) and len(self.fields) == 1:  # a document that needs no field
            return (record,)
        if not isinstance(record, dict):
            fix = "; a JSON list is read from a file named .json" if isinstance(record, list) else ""
            raise DataError(f"{self.place}: no JSON object, but {json.dumps(record)[:40]}{fix}")
        for field in self.fields:
            if field not in record:
                raise DataError(
                    f"{self.place}: has no field {field!r}, but {_names(record)}; name the field that holds the "
                    "text with `mcd prepare --text-field` (or --prompt-field and --answer-field, or --messages-field)"
                )
        return tuple(record[field] for field in self.fields)

    def _each_field_once(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            for field in self.fields:
                if sum(name == field for name, _ in pairs) > 1:
                    raise DataError(f"{self.place}: the field {field!r} occurs twice; which is meant?")
        return record

    def _parquet(self) -> Iterator[tuple[Any, ...]]:
        pyarrow = pyarrow_for(self.path)
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
        pyarrow = pyarrow_for(self.path)
        try:
            with pyarrow.memory_map(str(self.path)) as mapped:
                seekable = mapped.read(6) == b"ARROW1"
                mapped.seek(0)
                file = pyarrow.ipc.open_file(mapped) if seekable else pyarrow.ipc.open_stream(mapped)
                self._check_columns(file.schema.names)
                for batch in (file.get_batch(i) for i in range(file.num_record_batches)) if seekable else file:
                    batch.validate(full=True)  # wrong offsets in a file must not be followed out of memory
                    for start in range(0, len(batch), BATCH_ROWS):
                        yield from self._table(batch.slice(start, BATCH_ROWS))
                    self._share = mapped.tell() / max(1, mapped.size())
        except (pyarrow.ArrowException, OSError) as error:
            raise self._no("an arrow", error) from None

    def _check_columns(self, names: list[str]) -> None:
        for field in self.fields:
            if field not in names:
                raise DataError(f"--data {self.path}: no column {field!r}; it has {', '.join(names)}")
            if names.count(field) > 1:
                raise DataError(
                    f"--data {self.path}: {names.count(field)} columns are named {field!r}; which is meant? "
                    "rename them, or name another field"
                )

    def _table(self, batch: Any) -> Iterator[tuple[Any, ...]]:
        """Rows of a record batch, as Python values."""
        if self.number + len(batch) <= self.skip:
            self.number += len(batch)
            return
        columns = [batch.column(batch.schema.get_field_index(field)).to_pylist() for field in self.fields]
        for values in zip(*columns, strict=True):
            self.number += 1
            if self.number > self.skip:
                yield values

    def _no(self, kind: str, error: Exception) -> Exception:
        if isinstance(error, OSError) and error.errno is not None:
            return error
        return DataError(f"--data {self.path}: not {kind} file ({error})")


def _names(record: dict[str, Any]) -> str:
    return ", ".join(repr(name)[:60] for name in list(record)[:12]) or "no field at all"
