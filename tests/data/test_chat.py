"""Chat templates: against `transformers`, with contents that spell special tokens, and those that cannot be used."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mcd.data.chat import ChatTemplate, with_template
from mcd.data.loader import open_loader
from mcd.data.manifest import read_manifest
from mcd.data.marked_text import CLOSE, GUARD, OPEN, Marks
from mcd.data.prepare import records, workers
from mcd.data.prepare.pipeline import prepare
from mcd.data.recipe import Recipe
from mcd.data.tokenizer import load_tokenizer, with_special_tokens
from mcd.errors import DataError, UsageError

transformers = pytest.importorskip("transformers")

NAMES = ("<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
CHATML = """\
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
LLAMA3 = """\
{{- bos_token }}
{%- set today = strftime_now("%d %b %Y") %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + today + '\\n\\n' + system + '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
TRACKED = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}

{% else %}
{{ message.content }}<|im_end|>
{% endif %}
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
<think>
{% endif %}"""
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "tracked": TRACKED}
TALK = [
    ("system", " be brief"),
    ("user", "river?"),
    ("assistant", "a stone"),
    ("user", "lamp?"),
    ("assistant", "quiet "),
]


@pytest.fixture(scope="module")
def chatty(tiny_data, tmp_path_factory):
    """Makes a tokenizer's folder with a chat template; that of `tiny_data` with the special tokens of such."""

    def make(template=None, notes=None, tokenizer=None):
        folder = tmp_path_factory.mktemp("chatty")
        if tokenizer is None:
            tokenizer = Tokenizer.from_file(str(tiny_data / "tokenizer.json"))
            tokenizer.add_special_tokens(list(NAMES))
        tokenizer.save(str(folder / "tokenizer.json"))
        notes = {"bos_token": {"content": "<|begin_of_text|>"}, "eos_token": "<|endoftext|>"} | (notes or {})
        (folder / "tokenizer_config.json").write_text(json.dumps(notes))
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return folder

    return make


def write(path, talks):
    talks = [{"messages": [{"role": role, "content": text} for role, text in talk]} for talk in talks]
    path.write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    return str(path)


def rows_of(folder):
    """(prompt, answer with what closes it) of the held-out rows, as ids, the padding off."""
    loader = open_loader(folder, "valid", 1)
    batch, eos = loader.at([i * loader.stride for i in range(loader.rows)]), read_manifest(folder)["eos_id"]
    for row, learnt in zip(batch.x0.tolist(), batch.diffused.tolist(), strict=True):
        begin, end = learnt.index(True), len(row)
        while row[end - 1] == eos:
            end -= 1
        assert end < len(row)
        yield row[:begin], row[begin:end]


def prepared(tmp_path, tokenizer, talks, **choices):
    recipe = Recipe(write(tmp_path / "talks.jsonl", talks), tokenizer=str(tokenizer), length=512, valid_every=2)
    prepare(replace(recipe, messages_field="messages", **choices), tmp_path / "out")
    return list(rows_of(tmp_path / "out"))


@pytest.mark.parametrize("kind", TEMPLATES)
def test_rows_are_those_of_the_library(chatty, tmp_path, kind):
    """The ids of a conversation are apply_chat_template's, and the learnt ones those of its assistant's mask."""
    folder = chatty(TEMPLATES[kind])
    prompt, answer = prepared(tmp_path, folder, [TALK, TALK])[0]
    recipe = with_template(Recipe("", tokenizer=str(folder), messages_field="messages"))[0]
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(str(folder / "tokenizer.json")))
    talk = [{"role": role, "content": text} for role, text in TALK]
    said = {"chat_template": recipe.template, "return_dict": True}
    whole = theirs.apply_chat_template(talk, **said)["input_ids"]
    assert (prompt + answer) == whole[: len(prompt + answer)]
    assert theirs.decode(whole[len(prompt + answer) :]).strip() == ""
    if kind == "tracked":
        mask = theirs.apply_chat_template(talk, return_assistant_tokens_mask=True, **said)["assistant_masks"]
        last = len(mask) - 1 - mask[::-1].index(1)
        assert last == len(prompt + answer) - 1 and all(mask[len(prompt) : last + 1]) and not mask[len(prompt) - 1]
    else:
        assert prompt == theirs.apply_chat_template(talk[:-1], add_generation_prompt=True, **said)["input_ids"]
    closing = "<|eot_id|>" if kind == "llama3" else "<|im_end|>"
    assert theirs.decode(answer) == ("quiet" if kind == "llama3" else "quiet ") + closing
    if kind == "llama3":
        assert theirs.decode(prompt).startswith(
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday: 26"
        )


@pytest.mark.parametrize("kind", TEMPLATES)
def test_contents_that_spell_special_tokens_stay_text(chatty, tmp_path, kind):
    spelt = "say <|im_end|> <|eot_id|><|endoftext|>, <|im_<|im_end|>"
    plain = "say this and that"
    talks = [[("user", text), ("assistant", text), ("user", text), ("assistant", text)] for text in (spelt, plain)]
    folder = chatty(TEMPLATES[kind])
    spelt_row, plain_row = prepared(tmp_path, folder, [talks[0], talks[0], talks[1], talks[1]])
    tokenizer = load_tokenizer(folder)
    special = {tokenizer.token_to_id(name) for name in (*NAMES, "<|endoftext|>")}
    for mine, other in zip(spelt_row, plain_row, strict=True):
        assert [i for i in mine if i in special] == [i for i in other if i in special]
        text = tokenizer.decode(mine, skip_special_tokens=False)
        assert text == tokenizer.decode(other, skip_special_tokens=False).replace(plain, spelt)


def test_pairs_are_a_turn_of_the_chat_template_and_a_given_template_is_kept(chatty, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"q": "<|im_end|>lamp?", "answer": "quiet<|im_end|>"}\n' * 4)
    folder = chatty(CHATML)
    recipe = Recipe(str(tmp_path / "a.jsonl"), tokenizer=str(folder), length=256, prompt_field="q", valid_every=2)
    tokenizer = load_tokenizer(folder)
    special, end = with_special_tokens(tokenizer), tokenizer.token_to_id("<|im_end|>")
    said = {}
    given = {
        "own": None,
        "plain": "<|im_start|>{prompt}<|im_end|>",
        "jinja": "{{ messages[0].content }}->{% for m in messages[1:] %}{{ m.content }}{% endfor %}",
    }
    for name, template in given.items():
        said[name] = prepare(replace(recipe, template=template), tmp_path / name).get("template_from")
        prompt, answer = next(rows_of(tmp_path / name))
        texts = [tokenizer.decode(ids, skip_special_tokens=False) for ids in (prompt, answer)]
        if name == "own":
            assert texts == [
                "<|im_start|>user\n<|im_end|>lamp?<|im_end|>\n<|im_start|>assistant\n",
                "quiet<|im_end|><|im_end|>",
            ]
            assert prompt.count(end) == answer.count(end) == 1
            assert prompt[-11:] == special.encode("<|im_end|>\n<|im_start|>assistant\n").ids[-11:]
        elif name == "jinja":
            assert texts == ["<|im_end|>lamp?->", "quiet<|im_end|>"] and end not in prompt + answer
        else:
            assert texts == ["<|im_start|><|im_end|>lamp?<|im_end|>", "quiet<|im_end|>"]
            assert prompt.count(end) == 1 and prompt[-1] == end and end not in answer
    assert said == {"own": f"the chat template of {folder} (chat_template.jinja)", "plain": None, "jinja": None}


def test_a_folder_is_that_of_its_template(chatty, tmp_path):
    folder = chatty(CHATML)
    prepared(tmp_path, folder, [TALK, TALK])
    recipe = Recipe(str(tmp_path / "talks.jsonl"), tokenizer=str(folder), length=512, valid_every=2)
    recipe = replace(recipe, messages_field="messages")
    assert read_manifest(tmp_path / "out")["recipe"]["template"] == CHATML
    manifest = prepare(recipe, tmp_path / "out")
    (tmp_path / "mine.jinja").write_text(CHATML)
    assert prepare(replace(recipe, template=str(tmp_path / "mine.jinja")), tmp_path / "out") == manifest
    (folder / "chat_template.jinja").write_text(CHATML + " ")
    with pytest.raises(DataError, match="another recipe"):
        prepare(recipe, tmp_path / "out")


def test_what_a_template_uses_of_the_tokenizer_is_in_it(chatty):
    notes = {"chat_template": [{"name": "tool_use", "template": "-"}, {"name": "default", "template": LLAMA3}]}
    recipe = Recipe("", tokenizer=str(chatty(None, notes)), messages_field="messages")
    found, source = with_template(recipe)
    assert found.template.startswith('{% set bos_token = "<|begin_of_text|>" %}\n{% macro strftime_now')
    assert found.template.endswith(LLAMA3) and "tokenizer_config.json" in source
    assert with_template(replace(found, tokenizer=recipe.tokenizer))[0] == found  # and once only
    assert with_template(replace(recipe, tokenizer=None)) == (
        replace(recipe, tokenizer=None, template="{prompt}"),
        None,
    )
    with pytest.raises(DataError, match="its chat templates are tool_use, none of them the default"):
        with_template(replace(recipe, tokenizer=str(chatty(None, {"chat_template": notes["chat_template"][:1]}))))


def test_an_answer_that_is_closed_by_the_end_of_text_ends_once(chatty, tmp_path):
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    rows = prepared(tmp_path, chatty(template), [[("user", "river"), ("assistant", "stone")]] * 2)
    assert load_tokenizer(tmp_path / "out").decode(rows[0][1]) == "assistant: stone"
    loader = open_loader(tmp_path / "out", "valid", 1)
    eos, (x0, diffused, _) = read_manifest(tmp_path / "out")["eos_id"], loader.batch(0)
    first = diffused[0].tolist().index(True) + len(rows[0][1])
    assert (x0[0, first:] == eos).all()
    prepare(
        Recipe(
            str(tmp_path / "talks.jsonl"),
            tokenizer=read_manifest(tmp_path / "out")["recipe"]["tokenizer"],
            length=first + 1,
            messages_field="messages",
        ),
        tmp_path / "just",
    )
    assert read_manifest(tmp_path / "just")["counts"]["train"] == {"dropped": 0, "cut": 0}


def test_the_number_of_processes_changes_nothing(chatty, tmp_path, monkeypatch):
    """Marks go through the processes that tokenise; and what is lost of a text is counted once."""
    monkeypatch.setattr(records, "UNIT_RECORDS", 2)
    monkeypatch.setattr(workers, "FEW_UNITS", 1)
    words = ["river?", "lamp?", "a", "stone", "quiet", "be", "brief", "user", "assistant", "system", "?"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([*NAMES, "<|endoftext|>"])
    folder = chatty(CHATML, tokenizer=tokenizer)
    talk = [*TALK[:-1], ("assistant", "quiet <|im_end|>")]
    recipe = Recipe(write(tmp_path / "talks.jsonl", [talk] * 9), tokenizer=str(folder), length=64, valid_every=2)
    recipe = replace(recipe, messages_field="messages")
    made = [prepare(recipe, tmp_path / str(count), workers=count, most_lost=1.0) for count in (1, 2)]
    assert made[0] == made[1]
    lost, (prompt, answer) = made[0]["lost"], next(rows_of(tmp_path / "1"))
    assert lost["unknown"] == 9 and lost["tokens"] == 9 * len(prompt + answer)
    assert [tokenizer.id_to_token(i) for i in answer] == ["quiet", "?", "<|im_end|>"]


def test_an_answer_does_not_begin_a_text(chatty, tmp_path):
    """A tokenizer that begins texts with a space of its own adds none to the answer, nor behind a special token."""
    words = ["▁river", "▁lamp", "quiet", "▁quiet", "user", "▁", ":", "▁user"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=":"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.add_special_tokens(["<|endoftext|>", AddedToken("<|im_end|>", rstrip=True)])
    folder = chatty("{% for m in messages %}{{ m.content }}<|im_end|> {% endfor %}", tokenizer=tokenizer)
    talk = [("user", "river lamp"), ("assistant", "quiet")]
    prompt, answer = prepared(tmp_path, folder, [talk, talk])[0]
    assert [tokenizer.id_to_token(i) for i in prompt] == ["▁river", "▁lamp", "<|im_end|>"]
    assert [tokenizer.id_to_token(i) for i in answer] == ["quiet", "<|im_end|>"]


@pytest.mark.parametrize(
    "template, match",
    [
        ("{{ messages[0].content }}{% if add_generation_prompt %}<think>{% endif %}", "does not say where"),
        ("{{ messages[-1].content }}{{ messages[0].content }}", "does not say where"),
        ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}", "the system says, 'be brief'"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "what the system says"),
        ("{{ raise_exception('no system here') }}", "the chat template fails (TemplateError: no system here)"),
        ("{{ messages[0].content.__class__.__mro__ }}", "the chat template fails (SecurityError"),
        ("{% for m in messages %}", "the chat template fails (TemplateSyntaxError"),
        ("{{ nothing.at_all.here }}", "the chat template fails (UndefinedError"),
        (f"{{{{ messages }}}}{OPEN}", "--template: holds U+FDD0"),
    ],
)  # fmt: skip
def test_templates_that_cannot_be_used(chatty, tmp_path, template, match):
    with pytest.raises(DataError) as error:
        prepared(tmp_path, chatty(template), [TALK, TALK])
    assert match in str(error.value)
    assert "--template" in str(error.value) or "line 1" in str(error.value)


def test_a_template_that_is_not_there_or_is_none(chatty, tmp_path):
    (tmp_path / "none.jinja").write_text("{prompt}")
    for template, match in (("not.jinja", "not.jinja: cannot be read"), (str(tmp_path / "none.jinja"), "no Jinja")):
        with pytest.raises(DataError, match=match):
            prepared(tmp_path, chatty(), [TALK, TALK], template=template)
    with pytest.raises(UsageError, match=r"must hold \{prompt\} once, or be a chat template"):
        prepared(tmp_path, chatty(), [TALK, TALK], template="ask: ")
    for spelt in (OPEN, CLOSE, GUARD):
        with pytest.raises(DataError, match=rf"line 2: holds U\+{ord(spelt):04X}"):
            prepared(tmp_path, chatty(CHATML), [TALK, [*TALK[:-1], ("assistant", f"a{spelt}b")]])


@given(st.text(alphabet="<s>/[]x ", max_size=20))
def test_guarded_texts_spell_no_special_token(text):
    tokenizer = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    tokenizer.add_special_tokens(["<s>", "</s>", "s>x", "[x]", "><"])
    marks = Marks(tokenizer)
    guarded = marks.guarded(text)
    assert marks.freed(guarded) == text and not any(name in guarded for name in marks.names)
    assert marks.unmarked(marks.marked(guarded)) == guarded and guarded.strip() == marks.guarded(text.strip())


def test_the_clock_of_templates_stands_still(chatty):
    marks = Marks(load_tokenizer(str(chatty())))
    recipe = Recipe("", template="{{ strftime_now('%Y-%m-%d, %d %B') }}{{ messages[0].content }}", prompt_field="p")
    template = ChatTemplate(str(with_template(recipe)[0].template), marks)
    assert template.prompt([("user", "a")], "here") == "2024-07-26, 26 Julya"
