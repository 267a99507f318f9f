"""Documents: the bundled corpus, anybody's files, or a hub dataset, each as an iterator of non-empty strings.

The names of `mcd.data.language` are streams of tokens and no documents.
"""

import gzip
import hashlib
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from mcd.data.language import LANGUAGES

ASSETS = Path(__file__).resolve().parent.parent / "assets"
BUNDLED = {"sotu": ASSETS / "sotu.jsonl.xz"}
"""State of the Union addresses, 1790 onward (public domain; see sotu.NOTICE)."""

SUFFIXES = (".txt", ".jsonl", ".parquet")
_NAMES = ", ".join((*BUNDLED, *LANGUAGES))
_SURROGATE = re.compile("[\ud800-\udfff]")


class DataError(ValueError):
    """Input that cannot be used as text; the message names the file and the mend."""


def documents(source: str, text_field: str = "text") -> Iterator[str]:
    """The documents of `source`, in a fixed order.

    source: "sotu"; a .txt file (documents parted by blank lines), .jsonl or .parquet (one document a row, in
    `text_field`), also with .gz or .xz behind; a folder of such files (read in name order); or the name of a dataset
    on the Hugging Face hub (split "train"; needs the `hub` extra). Raises DataError for anything else.
    """
    if source in LANGUAGES:
        raise DataError(f"--data {source}: a stream of tokens without documents; give text")
    files = _files(source)
    if not files:
        yield from _hub_documents(source, text_field)
    for file in files:
        yield from _file_documents(file, text_field)


def source_sha256(source: str) -> str | None:
    """A hash of the files of `source`, names and bytes, or of the law of a language; None for sotu and hub datasets.

    Raises DataError where `documents` would find no file.
    """
    if source in LANGUAGES:
        return LANGUAGES[source]().sha256()
    files = [] if source in BUNDLED else _files(source)
    if not files:
        return None
    whole = hashlib.sha256()
    for file in files:
        whole.update(json.dumps([file.relative_to(source).as_posix(), file_sha256(file)]).encode())
    return whole.hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(source: str) -> list[Path]:
    """The files of `source`, in the order of reading; none when it can only be the name of a hub dataset."""
    if not source:
        raise DataError(f"--data '': names nothing; give a file, a folder, {_NAMES} or a hub dataset")
    path = BUNDLED.get(source, Path(source))
    if path.is_dir():
        files = [p for p in sorted(path.rglob("*")) if p.is_file() and _suffix(p) in SUFFIXES]
        if not files:
            raise DataError(f"--data {source}: the folder holds no {', '.join(SUFFIXES)} file")
        return files
    if path.is_file():
        return [path]
    if source.startswith((".", "/", "~")) or _suffix(path) in SUFFIXES:
        raise DataError(f"--data {source}: no such file or folder")
    return []


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in (".gz", ".xz") else path.suffix


def _file_documents(path: Path, text_field: str) -> Iterator[str]:
    readers = {".txt": _txt_documents, ".jsonl": _jsonl_documents, ".parquet": _parquet_documents}
    reader = readers.get(_suffix(path))
    if reader is None:
        raise DataError(f"--data {path}: not one of {', '.join(SUFFIXES)} (.gz and .xz may follow)")
    found = False
    try:
        for text in reader(path, text_field):
            if text.strip():
                found = True
                yield text
    except UnicodeDecodeError as error:
        raise DataError(f"--data {path}: not UTF-8 text (byte {error.start}); is it a binary file?") from None
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"--data {path}: damaged compressed file ({error})") from None
    if not found:
        raise DataError(f"--data {path}: holds no text")


def _lines(path: Path) -> Iterator[str]:
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opener(path, "rt", encoding="utf-8-sig") as file:
        for line in file:
            if "\0" in line:
                raise DataError(f"--data {path}: holds NUL bytes; is it a binary file?")
            yield line


def _txt_documents(path: Path, _: str) -> Iterator[str]:
    lines: list[str] = []
    for line in _lines(path):
        if line.strip():
            lines.append(line)
        elif lines:
            yield "".join(lines).rstrip("\n")
            lines = []
    if lines:
        yield "".join(lines).rstrip("\n")


def _jsonl_documents(path: Path, text_field: str) -> Iterator[str]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)[text_field]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"--data {path}, line {number}: no JSON object with a {text_field!r} field") from error
        except (ValueError, RecursionError) as error:  # a number of too many digits, or brackets in brackets
            raise DataError(f"--data {path}, line {number}: JSON that cannot be read ({error})") from None
        if not isinstance(text, str):
            raise DataError(f"--data {path}, line {number}: field {text_field!r} is not a string")
        if _SURROGATE.search(text):
            raise DataError(f"--data {path}, line {number}: field {text_field!r} holds a lone surrogate (\\ud800 ...)")
        yield text


def _parquet_documents(path: Path, text_field: str) -> Iterator[str]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise DataError(f"--data {path}: parquet needs pyarrow; pip install 'mcd-lm[hub]'") from None
    import pyarrow

    try:
        file = parquet.ParquetFile(path)
        if text_field not in file.schema_arrow.names:
            raise DataError(f"--data {path}: no column {text_field!r}; it has {', '.join(file.schema_arrow.names)}")
        for batch in file.iter_batches(columns=[text_field], batch_size=1024):
            for text in batch.column(0).to_pylist():
                if text is not None and not isinstance(text, str):
                    raise DataError(f"--data {path}: column {text_field!r} holds no strings")
                yield text or ""
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"--data {path}: not a parquet file ({error})") from None


def _hub_documents(name: str, text_field: str) -> Iterator[str]:
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"--data {name}: neither a file here nor bundled ({_NAMES}); "
            "for a dataset of the Hugging Face hub, pip install 'mcd-lm[hub]'"
        ) from None
    try:
        rows = datasets.load_dataset(name, split="train", streaming=True)
    except Exception as error:  # the hub client raises many kinds; all mean the same to the user
        raise DataError(
            f"--data {name}: neither a file here nor bundled ({_NAMES}), and the Hugging Face hub "
            f"did not give it ({type(error).__name__})"
        ) from None
    for row in rows:
        if not isinstance(row.get(text_field), str):
            raise DataError(f"--data {name}: its rows have no string {text_field!r}; they have {', '.join(row)}")
        if row[text_field].strip():
            yield row[text_field]
