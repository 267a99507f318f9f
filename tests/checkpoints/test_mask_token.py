"""Which token becomes the mask, on tokenizers with the special tokens of the published ones."""

import pytest
from tokenizers import AddedToken, Tokenizer, models

from mcd.checkpoints.mask_token import mask_token

SMOLLM2 = """<|endoftext|> <|im_start|> <|im_end|> <repo_name> <reponame> <file_sep> <filename> <gh_stars> <issue_start>
<issue_comment> <issue_closed> <jupyter_start> <jupyter_text> <jupyter_code> <jupyter_output> <jupyter_script>
<empty_output>""".split()
LLAMA3 = """<|begin_of_text|> <|end_of_text|> <|reserved_special_token_0|> <|reserved_special_token_1|>
<|finetune_right_pad_id|> <|start_header_id|> <|end_header_id|> <|eot_id|>""".split()
QWEN = """<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|vision_pad|> <|image_pad|> <tool_call>
</tool_call> <|fim_prefix|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>""".split()
CHAT = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %} <tool_call>"


def tokenizer_of(special, words=5):
    tokens = [*special, *(f"w{i}" for i in range(words))]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="w0"))
    tokenizer.add_special_tokens([AddedToken(token, special="tool" not in token) for token in special])
    return tokenizer


def chosen(special, settings=None, notes=None, chat=CHAT, start=0, named=None):
    return mask_token(tokenizer_of(special), settings or {}, notes or [], chat, start, named)


def test_smollm2_gives_its_last_special_token():
    found = chosen(SMOLLM2, {"bos_token_id": 0, "eos_token_id": 0})
    assert (found.token, found.id, found.added) == ("<empty_output>", 16, False)


def test_llama_3_gives_a_reserved_one():
    assert chosen(LLAMA3).token == "<|reserved_special_token_0|>"
    used = {"pad_token_id": 2}
    assert chosen(LLAMA3, used).token == "<|reserved_special_token_1|>"


def test_qwen_gives_the_padding_of_fill_in_the_middle():
    assert chosen(QWEN, {"eos_token_id": [2, 0]}).token == "<|fim_pad|>"


def test_gpt_2_has_none_so_one_is_added():
    found = chosen(["<|endoftext|>"], {"bos_token_id": 0, "eos_token_id": 0})
    assert (found.token, found.id, found.added) == ("<|mask|>", 6, True)


@pytest.mark.parametrize(
    "settings, notes, name",
    [
        ({"mask_token_id": 4}, [], "<reponame>"),
        ({}, [{"mask_token": {"content": "<filename>"}}], "<filename>"),
        ({"pad_token_id": 16}, [], "<jupyter_script>"),
        ({"eos_token_id": [16, 15]}, [], "<jupyter_output>"),
        ({}, [{"unk_token": "<empty_output>", "eos_token": {"content": "<jupyter_script>"}}], "<jupyter_output>"),
    ],
)
def test_what_the_files_say_comes_first(settings, notes, name):
    assert chosen(SMOLLM2, settings, notes).token == name


def test_a_usual_name_comes_before_others():
    assert chosen([*SMOLLM2, "<mask>", "<last>"]).token == "<mask>"


def test_a_token_of_the_chat_template_and_of_the_start_is_passed_over():
    assert chosen(["<a>", "<b>", "<c>"], chat="<c>").token == "<b>"
    assert chosen(["<a>", "<b>", "<c>"], chat="<b>", start=2).token == "<a>"


def test_an_added_token_that_is_no_name_in_brackets_is_passed_over():
    assert chosen(["<|endoftext|>", "    "]).added  # GPT-NeoX has runs of spaces


def test_the_user_names_one():
    assert chosen(SMOLLM2, named="<gh_stars>")[:3] == ("<gh_stars>", 7, False)
    assert chosen(SMOLLM2, named="<new>")[:3] == ("<new>", 22, True)
    for named in ("<|endoftext|>", "<|im_end|>"):
        with pytest.raises(ValueError, match=rf"--mask-token {named.replace('|', '.')}: is in use"):
            chosen(SMOLLM2, {"eos_token_id": 0}, named=named)


def test_no_token_is_added_to_ids_with_a_gap():
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 5}, unk_token="a"))
    with pytest.raises(ValueError, match="cannot be added: the tokenizer's ids are not 0 to 1"):
        mask_token(tokenizer, {}, [], "", 0)
