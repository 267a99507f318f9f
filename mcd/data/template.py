"""Templates: text with [MASK] or [MASK:n] where a model is to write, as the ids of a row."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product

from tokenizers import Tokenizer

from mcd.data.token_texts import common, token_texts, word_of
from mcd.errors import DataError
from mcd.options import LONGEST_ROW

_MASK = re.compile(r"\[MASK(?::([0-9]+))?\]")
_LIKE_A_MASK = (
    r"[\[{<\uff3b\u3010]\|?\s*(?:mdm_)?masks?(?![^\W\d_])\s*"
    r"(?::\s*[^\s\[\]]{0,40}|[=*#,;-]?\s*[-+]?[\d.]*)\s*\|?[\]}>\uff3d\u3011]"
    r"|(?-i:\[MASK)(?![^\W\d_]):?[0-9]*|(?-i:\bMASK:[0-9]+\]?)"
)
"""`[mask]`, `[MASK: 5]`, `<mask>`, `{mask:5}`, `[MASK:5` and other spellings somebody may have meant as a mask."""
_MOST = 10**9  # masks that a template may ask for: beyond any length
_NEIGHBOURS = ("", "x", "1", ".", "\n", ")")
"""Words that may replace the mask before a text, so that a tokenizer reads the text as the middle of one."""


@dataclass(frozen=True)
class Template:
    """A template as a row: `ids`, blank where text is wanted, and the texts that the tokenizer `changed`.

    changed: (given, read) for each text that does not come back to the byte: the tokenizer normalises (uncased BERT) or
    keeps no white space.
    """

    ids: list[int]
    changed: list[tuple[str, str]]


def parse_template(template: str, mask_token: str | None = None) -> list[str | int]:
    r"""Texts and numbers of masks, in their order; no text is empty, and no two texts are neighbours.

    [MASK] is one mask, [MASK:n] are n. A backslash makes them text: `\[MASK]`; before a mask `\\` is a backslash, and
    anywhere else a backslash is itself. mask_token: how the model's own mask is spelt, which is refused, too.
    Raises DataError for what looks like a mask and is none, such as `[MASK: 5]`, `[mask]` or `<mask>`.
    """
    like = _LIKE_A_MASK + (f"|(?-i:{re.escape(mask_token)})" if mask_token else "")
    parts: list[str | int] = []
    text, done = "", 0
    for found in re.finditer(rf"(?i)(\\*)({like})", template):
        slashes, form = len(found[1]), found[2]
        text += template[done : found.start()] + "\\" * (slashes // 2)
        done = found.end()
        if slashes % 2:
            text += form
            continue
        match = _MASK.fullmatch(form)
        digits = "0" if match is None else (match[1] or "1").lstrip("0")
        if not digits or match is None:
            raise DataError(
                f"--template: {form!r} is no mask; write [MASK], or [MASK:n] for n masked tokens with n at least 1, "
                f"or \\{form} to have it as text"
            )
        parts += [text] if text else []
        parts.append(int(digits) if len(digits) < 10 else _MOST)
        text = ""
    text += template[done:]
    return parts + ([text] if text else [])


def read_template(
    tokenizer: Tokenizer, template: str | Sequence[str | int], blank_id: int, length: int | None = None
) -> Template:
    """A row of ids: the text of a template tokenised, and `blank_id` for its masks.

    template: text with masks, or its parts as of `parse_template`, in which no text is read as a mask.

    length: how many ids the row has, blank from the end of the template onward; None for a row that ends where the
    template ends.

    Texts are read as the parts of one text, in which each mask is a word: a space before a mask is the mask's to write
    where the tokenizer's words begin with their space, as with `AddedToken(lstrip=True)`; any other white space before
    it is text. Nothing is put before a text that follows a mask. The ids then decode to the given text, to the byte but
    for those spaces, or else to what `changed` says, which is the same but for the tokenizer's normalizer and for white
    space. Raises DataError when neither is possible, when the template is too long, leaves nothing to write or spells a
    mask in another way (`parse_template`).
    """
    reader, most = _Reader(tokenizer, blank_id), LONGEST_ROW if length is None else length
    if isinstance(template, str):
        parts = parse_template(template, tokenizer.id_to_token(blank_id))
    else:
        parts = [part for part in template if part]
    ids: list[int] = []
    changed: list[tuple[str, str]] = []
    for i, part in enumerate(parts):
        if isinstance(part, int):
            ids += [blank_id] * min(part, max(0, most + 1 - len(ids)))
            continue
        last = i == len(parts) - 1
        read, lost = reader.read(part, i > 0, not (last and length is None))
        if last and len(ids) + len(read) == length:  # no mask follows
            read, lost = reader.read(part, i > 0, False)
        ids, changed = ids + read, changed + lost
    if len(ids) > most:
        asked = length is not None and length < LONGEST_ROW
        limit = f"--length {length} tokens" if asked else f"{LONGEST_ROW:,} tokens, the most that a row may have"
        raise DataError(f"--template: is longer than {limit}; shorten it{' or raise --length' if asked else ''}")
    ids += [blank_id] * (length - len(ids)) if length is not None else []
    if blank_id not in ids:
        fix = "write a [MASK] in it, or give --length" if length is None else "raise --length"
        what = "has no [MASK]" if length is None else f"fills all of --length {length}"
        raise DataError(f"--template: {what} and leaves nothing to write; {fix}")
    return Template(ids, changed)


def words_carry_spaces(tokenizer: Tokenizer) -> bool:
    """Does a space before a word belong to the word's token, as in byte-level BPE, and not to one of its own?"""
    return bool(_Reader(tokenizer, -1).word)


class _Reader:
    """Tokenises texts that have masks next to them."""

    def __init__(self, tokenizer: Tokenizer, blank_id: int):
        self.tokenizer, self.blank_id = tokenizer, blank_id
        self._word: str | None = None

    def read(self, text: str, after: bool, before: bool) -> tuple[list[int], list[tuple[str, str]]]:
        """The ids of a text `after` a mask and `before` one, and what it is changed to."""
        given = text[:-1] if before and text.endswith(" ") else text
        ids = self._exactly(text, after, before)
        if ids is None:
            given = given if self.word else text
            ids = self._encode(given)
        if self.blank_id in ids:
            raise DataError(f"--template: the tokenizer reads a part of {text!r:.60} as the mask; write [MASK] for it")
        read = "".join(self._shares(ids, after))
        if read not in (text, given):
            self._check(given, read)
            return ids, [(given, read)]
        return ids, []

    def _exactly(self, text: str, after: bool, before: bool) -> list[int] | None:
        """The ids that decode to `text`, less the space that a mask behind it takes; None when no reading does."""
        tails = (self.word, "") if before and text[-1].isspace() else ("",)
        for tail, neighbour in product(tails, _NEIGHBOURS[: None if after else 1]):
            try:
                ids = self._encode(neighbour + text + tail)
            except DataError:
                continue
            shares = self._shares(ids, after and not neighbour)
            read = "".join(shares)
            begin = max(0, len(read) - len(text + tail))
            before_it = read[:begin].lstrip(" ") if neighbour else read[:begin]  # some put a space before every text
            if read[begin:] != text + tail or before_it != neighbour:
                continue
            cuts = list(accumulate(map(len, shares), initial=0))
            end = begin + len(text)
            if end not in cuts and tail and text.endswith(" "):
                end -= 1  # the space is the next word's
            if begin in cuts and end in cuts:
                return ids[cuts.index(begin) : cuts.index(end)]
        return None

    def _encode(self, text: str) -> list[int]:
        try:
            return self.tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # `tokenizers` raises bare Exception for a word it has no token for
            raise DataError(f"--template: {text.strip()!r:.60} is not in the model's vocabulary ({error})") from None

    def _shares(self, ids: list[int], after: bool) -> list[str]:
        """The text of each id, in a row that begins with a mask or with these ids."""
        row = token_texts(self.tokenizer, [self.blank_id] * after + ids, self.blank_id, skip_special_tokens=False)
        return [share or "" for share in row[after:]]

    def _check(self, given: str, read: str) -> None:
        """Raise DataError when two texts differ by more than the normalizer and white space."""
        a, b = self._bare(given), self._bare(read)
        if a != b:
            at = common(a, b)
            raise DataError(
                f"--template: the model's tokenizer cannot write {given!r:.60}: it reads {a[at:][:20]!r} as "
                f"{b[at:][:20]!r}; use what it has tokens for"
            )

    def _bare(self, text: str) -> str:
        normalizer = self.tokenizer.normalizer
        return re.sub(r"[\s▁]+", "", normalizer.normalize_str(text) if normalizer else text)

    @property
    def word(self) -> str:
        """A word whose token begins with its space, without it; "" where the tokenizer has none."""
        if self._word is None:
            self._word = next(self._words(), "")
        return self._word

    def _words(self) -> Iterator[str]:
        first = word_of(self.tokenizer)
        head = self.tokenizer.decode([first])
        for i in range(self.tokenizer.get_vocab_size()):
            text = self.tokenizer.decode([first, i])[len(head) :]
            if i != self.blank_id and text[:1] == " " and text[1:].isalnum():
                try:
                    if self._encode(head + text)[-1:] == [i]:
                        yield text[1:]
                except DataError:
                    continue
