"""Which token ends a text, and which begin and end a row: what the tokenizer's own files say."""

import json

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from mcd.data.manifest import read_manifest
from mcd.data.prepare.pipeline import prepare
from mcd.data.recipe import Recipe
from mcd.data.special_tokens import GUESSED, end_of_text, frame_of
from mcd.data.tokenizer import load_tokenizer
from mcd.data.tokens import read_tokens
from mcd.errors import DataError

WORDS = [f"w{i}" for i in range(12)]


def words(*special, plain=()):
    """Whole words, special tokens, and added ones that are not special."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special, *WORDS])}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(special))
    tokenizer.add_tokens([AddedToken(name, special=False) for name in plain])
    return tokenizer


@pytest.fixture
def folder(tmp_path):
    """Writes a tokenizer and files beside it; returns the folder's name."""

    def write(tokenizer, **files):
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        for name, value in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
        return str(tmp_path)

    return write


BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.mark.parametrize(
    "special, plain, files, expected, source",
    [
        # Gemma: <s> and </s> are there for its kin and mean nothing
        (("<pad>", "<eos>", "<bos>"), ("<s>", "</s>"), {}, "<eos>", GUESSED),
        (("<s>", "<eos>", "</s>"), (), {"tokenizer_config": {"eos_token": "<eos>"}}, "<eos>", "tokenizer_config.json"),
        (
            ("<s>", "</s>"),
            (),
            {"special_tokens_map": {"eos_token": {"content": "<s>"}}},
            "<s>",
            "special_tokens_map.json",
        ),
        # names are believed before numbers: config.json has the defaults of transformers where nobody set them
        (("</s>", "<x>"), (), {"tokenizer_config": {"eos_token": "<x>"}, "config": {"eos_token_id": 0}}, "<x>", "eos"),
        (("</s>", "<x>"), (), {"config": {"eos_token_id": 1}}, "<x>", "eos_token_id of config.json"),
        (("</s>", "<x>", "<y>"), (), {"config": {"eos_token_id": [2, 1]}}, "<y>", "eos_token_id of config.json"),
        (("</s>", "<x>"), (), {"config": {"eos_token_id": 3}}, "</s>", GUESSED),  # a word
        # BERT's files name no end of text, and its texts end with [SEP]; ModernBERT has both
        (BERT, (), {"tokenizer_config": {"sep_token": "[SEP]"}}, "[SEP]", "sep_token of tokenizer_config.json"),
        ((*BERT, "<|endoftext|>"), (), {}, "[SEP]", GUESSED),
        ((*BERT, "<x>"), (), {"tokenizer_config": {"sep_token": "[SEP]", "eos_token": "<x>"}}, "<x>", "eos_token"),
        ((*BERT, "</s>"), (), {"tokenizer_config": {"eos_token": None}}, "[SEP]", GUESSED),
    ],
)
def test_the_end_of_text_is_what_the_files_say(folder, special, plain, files, expected, source):
    tokenizer = words(*special, plain=plain)
    found = end_of_text(tokenizer, folder(tokenizer, **files))
    assert tokenizer.id_to_token(found.id) == expected and source in found.source


def test_an_end_of_text_can_be_named_and_the_message_says_how(folder):
    tokenizer = words("<stop>", "<pad>")
    name = folder(tokenizer)
    with pytest.raises(
        DataError, match=r"--eos-token, or in a tokenizer_config.json .*special tokens are <stop>, <pad>"
    ):
        end_of_text(tokenizer, name)
    assert end_of_text(tokenizer, name, "<stop>") == (0, "--eos-token")
    with pytest.raises(DataError, match=r"--eos-token <end>: the tokenizer has no such token; .*<stop>"):
        end_of_text(tokenizer, name, "<end>")
    folder(tokenizer, tokenizer_config={"eos_token": "<end>"})
    with pytest.raises(DataError, match=r"tokenizer_config.json: names '<end>' as eos_token.*--eos-token"):
        end_of_text(tokenizer, name)
    assert end_of_text(tokenizer, f"{name}/tokenizer.json", "<pad>").id == 1


def test_files_beside_a_tokenizer_of_another_name_are_not_its_own(folder, tmp_path):
    tokenizer = words("</s>", "<x>")
    folder(tokenizer, tokenizer_config={"eos_token": "<x>"})
    tokenizer.save(str(tmp_path / "other.json"))
    assert end_of_text(tokenizer, str(tmp_path / "other.json")).id == 0
    (tmp_path / "tokenizer_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"tokenizer_config\.json: cannot be read"):
        end_of_text(tokenizer, str(tmp_path))


@pytest.mark.parametrize("fault", [RemoteEntryNotFoundError, LocalEntryNotFoundError])
def test_files_of_the_hub(tmp_path, monkeypatch, fault):
    """The one file that is there is read; without a network only the first is asked for."""
    asked = []
    (tmp_path / "config.json").write_text('{"eos_token_id": 1}')

    def download(repository, name):
        asked.append((repository, name))
        if name == "config.json":
            return str(tmp_path / name)
        raise fault.__new__(fault)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    found = end_of_text(words("</s>", "<x>"), "somebody/model")
    if fault is RemoteEntryNotFoundError:
        assert found == (1, "eos_token_id of config.json") and len(asked) == 3
    else:
        assert found == (0, GUESSED) and asked == [("somebody/model", "tokenizer_config.json")]


def test_prepared_data_ends_texts_with_it_and_keeps_its_name(folder, tmp_path):
    tokenizer = words("</s>", "<eos>")
    name = folder(tokenizer, tokenizer_config={"eos_token": "<eos>"})
    (tmp_path / "text.txt").write_text("\n\n".join(" ".join(WORDS) for _ in range(12)))
    recipe = Recipe(str(tmp_path / "text.txt"), tokenizer=name, length=4, valid_every=4)
    manifest = prepare(recipe, tmp_path / "out", most_lost=1.0)
    assert (manifest["eos_id"], manifest["eos_from"]) == (1, "eos_token of tokenizer_config.json")
    tokens = read_tokens(tmp_path / "out", "train")[:].tolist()
    assert tokens.count(1) == 9 and tokens.count(0) == 0 and tokens[len(WORDS)] == 1
    # the folder alone says it, as does the folder of a model trained on it
    assert end_of_text(load_tokenizer(tmp_path / "out"), str(tmp_path / "out")).id == 1
    # another end of text is another recipe, also where only the files beside the tokenizer changed
    folder(tokenizer, tokenizer_config={"eos_token": "</s>"})
    with pytest.raises(DataError, match="another recipe"):
        prepare(recipe, tmp_path / "out", most_lost=1.0)


def test_names_of_special_tokens_in_a_text_are_text_unless_asked_for(tmp_path, text_file, tiny_data):
    text = text_file.read_text(encoding="utf-8").replace(". ", ". <|endoftext|> ").replace(" the ", " <|endoftext|> ")
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    recipe = Recipe(str(tmp_path / "text.txt"), tokenizer=str(tiny_data), length=16)
    eos = prepare(recipe, tmp_path / "text")["eos_id"]
    spelled = text.count("<|endoftext|>")
    documents = sum(s["documents"] for split in read_manifest(tmp_path / "text")["splits"].values() for s in split)
    assert count(tmp_path / "text", eos) == documents and spelled > 100
    prepare(Recipe(**vars(recipe) | {"special_tokens": True}), tmp_path / "special")
    assert count(tmp_path / "special", eos) == documents + spelled


def count(folder, token):
    return sum(int(np.sum(read_tokens(folder, split)[:] == token)) for split in ("train", "valid"))


def test_a_word_that_is_the_end_of_text_is_refused(tmp_path, folder):
    """Whole words know no other way to write it."""
    tokenizer = words(plain=())
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("\n\n".join("w1 w2 w3" for _ in range(12)))
    recipe = Recipe(str(tmp_path / "text.txt"), tokenizer=str(tmp_path), length=2, eos_token="w2")
    with pytest.raises(DataError, match=r"a document spells w2.*--special-tokens"):
        prepare(recipe, tmp_path / "out")
    prepare(Recipe(**vars(recipe) | {"special_tokens": True}), tmp_path / "meant")


def test_the_tokens_around_a_row(folder):
    tokenizer = words(*BERT)
    with pytest.raises(DataError, match=r"--frame: the tokenizer of .* has no tokens that begin and end a row"):
        frame_of(tokenizer, folder(tokenizer))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    assert frame_of(tokenizer, folder(tokenizer)) == (2, 3)
    # names in the files are believed first
    assert frame_of(tokenizer, folder(tokenizer, tokenizer_config={"cls_token": "[PAD]", "sep_token": "[UNK]"})) == (
        0,
        1,
    )
    one = words("<s>", "</s>")
    one.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    with pytest.raises(DataError, match="--frame"):  # and a beginning alone is no frame
        frame_of(one, folder(one, tokenizer_config={}))


def test_numbers_of_any_length_beside_a_tokenizer(folder):
    """transformers writes 1e30 as `model_max_length`, digit by digit."""
    tokenizer = words(*BERT)
    name = folder(tokenizer, tokenizer_config={"model_max_length": 10**30, "sep_token": "[SEP]"})
    assert end_of_text(tokenizer, name) == (tokenizer.token_to_id("[SEP]"), "sep_token of tokenizer_config.json")
