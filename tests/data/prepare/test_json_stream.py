"""Values of a .json, read piece by piece: the same in any pieces, and what cut and faulty texts are called."""

import json

import pytest

from mcd.data.prepare.json_stream import CutOff, json_values

VALUES = [{"text": 'a\n\u00e9\\"' * k, "more": [k, {"x": None, "y": -0.5}, True, False]} for k in range(5)]
FORMS = [
    json.dumps(VALUES),
    json.dumps(VALUES, indent=2),
    "".join(json.dumps(value) + "\n" for value in VALUES),
    "\r\n" + "\n".join(json.dumps(value, indent=1) for value in VALUES) + "\n\n",
]


def read(text, size):
    pieces = (text[i : i + size] for i in range(0, len(text), size))
    return list(json_values(pieces, json.JSONDecoder()))


@pytest.mark.parametrize("text, begin", [*zip(FORMS, ("", "  {", "{", "{"), strict=True)])
def test_any_pieces_and_the_lines(text, begin):
    lines = [i for i, line in enumerate(text.split("\n"), 1) if line.startswith(begin)] if begin else [1] * 5
    for size in (1, 2, 7, 50, 1 << 20):
        assert read(text, size) == list(zip(lines, VALUES, strict=True))


@pytest.mark.parametrize("text", FORMS[:2])
def test_a_list_cut_anywhere_is_cut_off(text):
    for end in range(1, len(text)):
        with pytest.raises(CutOff):
            read(text[:end], 5)


@pytest.mark.parametrize("text", ["", " \n", "[]", "[ \n]\n"])
def test_nothing(text):
    assert read(text, 1) == []


@pytest.mark.parametrize(
    "text, line",
    [
        ("[1,]", 1),
        ("[1\n 2]", 2),
        ("[1],", 1),
        ("[1]\n[2]", 2),
        ("{},\n{}", 1),
        ("[,1]", 1),
        ('\n[{"a":\n}]', 3),
        ('[{"a": 1,}]', 1),
    ],
)
def test_faults_name_the_line(text, line):
    for size in (1, 1000):
        with pytest.raises(json.JSONDecodeError) as error:
            read(text, size)
        assert error.value.lineno == line


def test_an_early_fault_does_not_read_the_rest():
    taken = []

    def pieces():
        yield '[{"text": "fine"}, {text: 1}' + " " * 100
        for i in range(100):
            taken.append(i)
            yield "[" * 1000

    with pytest.raises(json.JSONDecodeError):
        list(json_values(pieces(), json.JSONDecoder()))
    assert taken == []
