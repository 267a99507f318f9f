"""lm-evaluation-harness with a model of ours: a local task, and its numbers against the bound and the sampler."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from mcd.api.blank import Blank
from mcd.api.harness import HarnessModel
from mcd.cli.main import main
from mcd.errors import UsageError
from mcd.eval.bound_of_row import bound_of_row
from mcd.eval.likelihood import nelbo_rows

TASKS = Path(__file__).with_name("tasks")
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # of the harness's own imports


def asked(*args):
    return Instance(request_type="x", doc={}, arguments=args, idx=0)


@pytest.fixture(scope="module")
def harness(ours):
    return HarnessModel(str(ours), draws=8, steps=3, max_gen_toks=4)


def test_a_continuation_has_its_bound_given_the_context_alone(harness):
    """The tokens of the context are visible in every draw, and no others count."""
    model, context, continuation = harness.model, "The people of", " the United States"
    ((found, greedy),) = harness.loglikelihood([asked(context, continuation)], disable_tqdm=True)
    ids = torch.tensor(model.tokenizer.encode(context + continuation).ids)
    wanted = torch.arange(len(ids)) >= len(model.tokenizer.encode(context).ids)
    assert 0 < wanted.sum() < len(ids)
    generator = torch.Generator().manual_seed(0)
    nats = nelbo_rows(model.denoiser, ids.expand(8, -1), generator, diffused=wanted.expand(8, -1)) * wanted.sum()
    assert found == pytest.approx(-nats.double().mean().item(), rel=1e-6) and not greedy
    *_, last = model.states(
        model.request([context, int(wanted.sum())], sampler="confidence", greedy=True, steps=3, rows_per_call=1)
    )
    written = model.tokenizer.decode(last.ids[0][wanted].tolist())
    assert model.tokenizer.encode(context + written).ids == last.ids[0].tolist()
    ((_, greedy),) = harness.loglikelihood([asked(context, written)], disable_tqdm=True)
    assert greedy


def test_empty_contexts_spaces_and_rows_longer_than_the_models(harness):
    ids, wanted = harness._read("", "peace")
    assert wanted.all()
    ids, wanted = harness._read("The people ", "peace")  # the space is the continuation's
    assert harness.model.tokenizer.decode(ids[wanted].tolist()) == " peace"
    long = " ".join(["the people of the states"] * 8)
    ids, wanted = harness._read(long, " peace")
    assert len(ids) > harness.model.length
    ((found, _),) = harness.loglikelihood([asked(long, " peace")], disable_tqdm=True)
    assert found == -bound_of_row(harness.model.denoiser, ids, wanted, 8, 0)[0] < 0


def test_whole_texts_and_generated_ones_are_those_of_the_model(harness):
    model, text = harness.model, "The people of the United States want peace."
    assert harness.loglikelihood_rolling([asked(text)], disable_tqdm=True) == [-model.score(text, draws=8)[0].nats]
    how = {"until": ["e"], "temperature": 1.0, "do_sample": True, "max_gen_toks": 5}
    cut, whole = harness.generate_until([asked("The", how), asked("The", how | {"until": []})], disable_tqdm=True)
    request = model.request(["The", 5], steps=3, rows_per_call=1)
    *_, last = model.states(request)
    assert whole == Blank(request, "The", True).read(model, last.ids[0])[0] and cut == whole.split("e")[0]
    with pytest.raises(UsageError, match="top_k: is not known here"):
        harness.generate_until([asked("The", {"top_k": 3})], disable_tqdm=True)


def test_generated_texts_are_guided(harness, ours):
    guided = HarnessModel.create_from_arg_string(f"model={ours},steps=3,guidance=2", {"batch_size": 1})
    drawn = asked("The", {"until": [], "temperature": 1.0, "do_sample": True, "max_gen_toks": 9})
    request = guided.model.request(["The", 9], steps=3, rows_per_call=1, guidance=2.0)
    *_, last = guided.model.states(request)
    (text,) = guided.generate_until([drawn], disable_tqdm=True)
    assert text == Blank(request, "The", True).read(guided.model, last.ids[0])[0]
    assert text not in harness.generate_until([drawn], disable_tqdm=True)
    with pytest.raises(UsageError, match="--guidance: does nothing here, since --greedy"):
        guided.generate_until([asked("The", {"until": []})], disable_tqdm=True)
    with pytest.raises(UsageError, match=r"--model_args guidance=-1: must be in \[0, 100\]$"):
        HarnessModel(str(ours), guidance=-1)


def test_an_unknown_name_is_refused():
    """As the harness calls it, with what --model_args holds."""
    with pytest.raises(UsageError, match=r"--model_args stepz: is not known; known are model, .* max_batch_size$"):
        HarnessModel.create_from_arg_string("model=demo,stepz=2", {"batch_size": 1})


def test_the_command_runs_local_tasks_and_refuses_unknown_ones(ours, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    args = f"lm-eval --model_args model={ours},draws=2,steps=2 --include_path {TASKS} --tasks"
    assert main([*args.split(), "mcd_speeches,mcd_write,mcd_whole"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("mcd_speeches", "mcd_write", "mcd_whole", "bits_per_byte"))
    assert main([*args.split(), "mcd_nothing"]) == 2
    assert "mcd_nothing" in capsys.readouterr().err
    assert main(["lm-eval", "--help"]) == 0 and "--model_args model=MODEL" in capsys.readouterr().out
