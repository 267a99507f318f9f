"""Languages against enumeration: every window of a tiny length is listed and summed over hidden paths one by one."""

import math
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch

from mcd.data.languages import hidden_markov
from mcd.data.languages.hidden_markov import stationary_law
from mcd.data.languages.known import BRACKETS, DEPTH, LANGUAGES, NOISE, Language

S, V, L = 3, 4, 4


SMALL = [name for name in LANGUAGES if name != "english"]  # which has a file of its own


@pytest.fixture(params=SMALL)
def language(request):
    return LANGUAGES[request.param]()


def tiny(seed=0):
    """Three states, four symbols, all probabilities positive."""
    generator = torch.Generator().manual_seed(seed)
    transition, emission = (torch.rand((S, n), dtype=torch.float64, generator=generator) + 0.05 for n in (S, V))
    transition, emission = (p / p.sum(1, keepdim=True) for p in (transition, emission))
    return Language(transition, emission, stationary_law(transition), "tiny", tuple("abcd"))


def paths(language, ids, emission=None):
    """(hidden path, p(path, ids)) of every hidden path, by plain multiplication; an id of V is not seen."""
    emission = language.emission if emission is None else emission
    for path in product(range(len(language.start)), repeat=len(ids)):
        p = language.start[path[0]].item()
        for a, b in pairwise(path):
            p *= language.transition[a, b].item()
        for h, x in zip(path, ids, strict=True):
            p *= emission[h, x].item() if x < V else 1.0
        yield path, p


def probability(language, ids, emission=None):
    """p(ids), summed over all hidden paths."""
    return sum(p for _, p in paths(language, ids, emission))


def every_window(length=L):
    return torch.tensor(list(product(range(V), repeat=length)))


def test_laws_are_laws_and_keep_themselves(language):
    ones = torch.ones(len(language.start), dtype=torch.float64)
    torch.testing.assert_close(language.transition.sum(1), ones)
    torch.testing.assert_close(language.emission.sum(1), ones)
    torch.testing.assert_close(language.start @ language.transition, language.start)
    assert language.start.min() > 0 and language.start.sum() == pytest.approx(1.0, abs=1e-12)
    assert len(language.symbols) == language.vocab_size == 32 == len(set(language.symbols))
    assert (language.start @ language.emission > 1e-4).all()  # every symbol occurs


def test_languages_have_full_support_and_an_entropy_worth_learning(language):
    nonsense = torch.randint(0, 32, (64, 64), generator=torch.Generator().manual_seed(0))
    assert language.log_likelihood(nonsense).isfinite().all()
    entropy, error = language.entropy(64)
    assert 1.2 < entropy < 2.2 and error < 2e-3
    law = language.ngram(1)
    assert entropy < torch.special.entr(law).sum() - 0.8  # context tells much


def test_languages_are_the_same_each_time(language):
    again = LANGUAGES[language.name].__wrapped__()  # type: ignore[attr-defined]
    assert again is not language and LANGUAGES[language.name]() is language
    assert torch.equal(again.transition, language.transition) and torch.equal(again.emission, language.emission)
    assert again.sha256() == language.sha256()
    assert len({make().sha256() for make in LANGUAGES.values()}) == len(LANGUAGES)
    rows, twin = (one.sample_rows(3, 20, torch.Generator().manual_seed(5)) for one in (language, again))
    assert torch.equal(rows, twin)


@pytest.mark.heavy
def test_likelihood_agrees_with_enumeration():
    language, windows = tiny(), every_window()
    p = language.log_likelihood(windows).exp()
    expected = torch.tensor([probability(language, ids) for ids in windows.tolist()], dtype=torch.float64)
    torch.testing.assert_close(p, expected)
    assert p.sum().item() == pytest.approx(1.0, abs=1e-12)


def test_likelihood_of_chunks_and_of_long_rows(language, monkeypatch):
    ids = language.sample_rows(7, 300, torch.Generator().manual_seed(0))
    whole = language.log_likelihood(ids)
    monkeypatch.setattr(hidden_markov, "_CHUNK_ELEMENTS", 2 * 300 * len(language.start))
    torch.testing.assert_close(language.log_likelihood(ids), whole)
    assert (whole < -300).all() and whole.isfinite().all()  # far below what a product of floats could hold


def test_grammatical_agrees_with_enumeration():
    transition = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
    clean = torch.tensor([[0.5, 0.5, 0, 0], [0, 0.9, 0.1, 0], [0, 0, 0, 1.0]], dtype=torch.float64)
    language = replace(tiny(), transition=transition, start=stationary_law(transition), noiseless=clean)
    windows = every_window()
    expected = [probability(language, ids, language.noiseless) > 0 for ids in windows.tolist()]
    assert language.grammatical(windows).tolist() == expected
    assert True in expected and False in expected


@pytest.mark.parametrize("n", [1, 2, 3])
def test_ngrams_agree_with_enumeration_at_every_place(n):
    language = tiny()
    windows = every_window()
    p = language.log_likelihood(windows).exp()
    for first in range(L - n + 1):  # stationary: the same law wherever the n-gram stands
        counted = torch.zeros((V,) * n, dtype=torch.float64)
        counted.index_put_(tuple(windows[:, first : first + n].T), p, accumulate=True)
        torch.testing.assert_close(language.ngram(n), counted)
    some = torch.tensor(list(product(range(V), repeat=n)))[::3].flip(0)
    torch.testing.assert_close(language.ngram_at(some), counted[tuple(some.T)])


@pytest.mark.heavy
def test_samples_follow_the_law(language):
    """Trigrams at the start, in the middle and at the end of rows, by a chi-square over the frequent ones."""
    rows = 12_000
    ids = language.sample_rows(rows, 12, torch.Generator().manual_seed(3))
    law = language.ngram(3).flatten()
    for first in (0, 5, 9):
        label = (ids[:, first : first + 3] * torch.tensor([1024, 32, 1])).sum(1)
        counts = torch.bincount(label, minlength=32**3).double()
        frequent = law * rows >= 20
        seen, expected = counts[frequent], rows * law[frequent]
        chi2 = ((seen - expected) ** 2 / expected).sum().item()
        degrees = int(frequent.sum())
        assert degrees > 40 and abs(chi2 - degrees) < 4.5 * math.sqrt(2 * degrees)


@pytest.mark.heavy
def test_a_long_row_is_a_stream_of_the_language(language):
    """Windows cut at any offset of a stream have the entropy of the language (errors: windows are dependent)."""
    stream = language.sample_rows(1, 1 << 16, torch.Generator().manual_seed(4))
    nll = -language.log_likelihood(stream[:, 7:-57].view(-1, 64)) / 64
    blocks = nll.view(11, -1).mean(1)
    entropy, _ = language.entropy(64)
    assert abs(blocks.mean() - entropy) < 4.5 * blocks.std() / math.sqrt(11) + 1e-3


def test_entropy_agrees_with_enumeration():
    language = tiny()
    p = language.log_likelihood(every_window()).exp()
    value, error = language.entropy(L, 4000)
    assert error > 0 and abs(value - torch.special.entr(p).sum().item() / L) < 4.5 * error


@pytest.mark.heavy
def test_entropy_of_seen_states_is_exact_and_of_others_the_mean_of_log_p(language):
    value, error = language.entropy(24)
    ids = language.sample_rows(2000, 24, torch.Generator().manual_seed(6))
    nll = -language.log_likelihood(ids) / 24
    assert abs(nll.mean().item() - value) < 4.5 * math.hypot(nll.std().item() / math.sqrt(2000), error)
    if language.name == "markov":
        pairs = language.ngram(2)
        single = torch.special.entr(language.ngram(1)).sum()
        rate = torch.special.entr(pairs).sum() - single
        assert error == 0.0 and value == pytest.approx(((single + 23 * rate) / 24).item(), abs=1e-12)
    else:
        assert 0 < error < 0.5 * nll.std().item() / math.sqrt(1024)  # less than plain draws of log p would leave


def test_posterior_is_bayes_rule():
    language, mask_id = tiny(), 9
    z = torch.tensor([[9, 9, 9, 9], [0, 9, 9, 3], [9, 2, 9, 9], [1, 9, 2, 0], [3, 1, 0, 2]])
    posterior = language.posterior(z, mask_id)
    windows = every_window()
    p = language.log_likelihood(windows).exp()
    for row, tokens in zip(posterior, z, strict=True):
        agrees = ((windows == tokens) | (tokens == mask_id)).all(1)
        for i in range(L):
            law = torch.zeros(V, dtype=torch.float64).index_add_(0, windows[agrees, i], p[agrees])
            torch.testing.assert_close(row[i], law / law.sum())
    assert torch.equal(posterior[4], torch.nn.functional.one_hot(z[4], V).double())


def test_occupancy_and_rules_agree_with_enumeration():
    language = tiny()
    ids = torch.tensor([[0, 3, 1, 1], [2, 2, 0, 3], [1, 0, 0, 2]])
    visits, rules = torch.zeros(3, S, dtype=torch.float64), torch.zeros(S, S, dtype=torch.float64)
    for n, row in enumerate(ids.tolist()):
        total = probability(language, row)
        for path, p in paths(language, row):
            for h in path:
                visits[n, h] += p / total
            for a, b in pairwise(path):
                rules[a, b] += p / total
    torch.testing.assert_close(language.state_occupancy(ids), visits)
    torch.testing.assert_close(language.rule_counts(ids), rules)


def test_usage_of_true_rows_is_the_law(language):
    """E[posterior] = prior: on rows of the language, states and rules are used as often as the law says."""
    N, length = 600, 32
    ids = language.sample_rows(N, length, torch.Generator().manual_seed(8))
    visits = language.state_occupancy(ids)
    torch.testing.assert_close(visits.sum(1), torch.full((N,), float(length), dtype=torch.float64))
    z = (visits.mean(0) - length * language.start) / (visits.std(0) / math.sqrt(N))
    frequent = N * length * language.start > 200  # visits of rare states come in clusters, far from normal
    assert frequent.sum() >= 8 and z[frequent].abs().max() < 4.5
    counts = language.rule_counts(ids)
    expected = N * (length - 1) * language.start[:, None] * language.transition
    frequent = expected > 50
    assert counts.sum().item() == pytest.approx(N * (length - 1))
    assert ((counts - expected)[frequent].abs() < 8 * expected[frequent].sqrt()).all()
    assert counts[language.transition == 0].sum() == 0


def parse(language, ids):
    """The slow twin of `grammatical`: read brackets by hand from every stack a window could begin in."""
    opening, closing = ({pair[side]: k for k, pair in enumerate(BRACKETS)} for side in (0, 1))
    for depth in range(DEPTH + 1):
        for stack in product(range(4), repeat=depth):
            inside = list(stack)
            for symbol in (language.symbols[i] for i in ids):
                if symbol in opening and len(inside) < DEPTH:
                    inside.append(opening[symbol])
                elif symbol in closing and inside and inside[-1] == closing[symbol]:
                    inside.pop()
                elif symbol in opening or symbol in closing or (inside and "rscp"[inside[-1]] not in symbol):
                    break
            else:
                return True
    return False


def test_grammatical_is_what_a_parser_says():
    language = LANGUAGES["grammar"]()
    generator = torch.Generator().manual_seed(9)
    ids = language.sample_rows(60, 24, generator)
    spoilt = torch.where(torch.rand(ids.shape, generator=generator) < 0.04, torch.randint_like(ids, 32), ids)
    rows = torch.cat((ids, spoilt))
    expected = [parse(language, row) for row in rows.tolist()]
    assert language.grammatical(rows).tolist() == expected
    assert 20 < sum(expected[60:]) < 55


def test_agreement_is_long_range():
    """A bracket of the outermost level closes 10 tokens and more behind its opening, more often than not."""
    language = LANGUAGES["grammar"]()
    quiet = Language(language.transition, language.noiseless, language.start, "quiet", language.symbols)
    gaps, open_at = [], []
    for i, symbol in enumerate(quiet.symbols[k] for k in quiet.sample_rows(1, 20_000, torch.Generator())[0]):
        if symbol in "([{<":
            open_at.append(i)
        elif symbol in ")]}>" and open_at:  # the stream may begin inside brackets
            start = open_at.pop()
            gaps += [i - start] if not open_at else []
    assert len(gaps) > 300 and sorted(gaps)[len(gaps) // 2] >= 10


def test_grammatical_share_of_the_truth():
    """Without noise all rows are; with it, no fewer than escape it, and about what its harmless share predicts."""
    language = LANGUAGES["grammar"]()
    quiet = Language(language.transition, language.noiseless, language.start, "quiet", language.symbols)
    rows = quiet.sample_rows(600, 64, torch.Generator().manual_seed(10))
    assert language.grammatical(rows).all()
    generator = torch.Generator().manual_seed(11)
    hit = torch.rand(rows.shape, generator=generator) < NOISE
    noisy = torch.where(hit, torch.randint(0, 32, rows.shape, generator=generator), rows)
    untouched = (noisy == rows).all(1)
    grammatical = language.grammatical(noisy)
    assert grammatical[untouched].all() and not grammatical.all()
    own = language.grammatical(language.sample_rows(1000, 64, generator)).double().mean().item()
    escapes = (1 - NOISE * 31 / 32) ** 64
    assert escapes - 4.5 * math.sqrt(escapes * (1 - escapes) / 1000) < own < 1.0
    share = grammatical.double().mean().item()
    assert abs(own - share) < 4.5 * math.sqrt(share * (1 - share) * (1 / 600 + 1 / 1000))


def test_foreign_ids_are_refused(language):
    for ids in (torch.tensor([[0, 32]]), torch.tensor([[-1, 3]])):
        for measure in (language.log_likelihood, language.state_occupancy, language.rule_counts):
            with pytest.raises(ValueError, match=r"ids must lie in \[0, 32\)"):
                measure(ids)
    with pytest.raises(ValueError, match=r"ids must lie in \[0, 32\)"):
        language.posterior(torch.tensor([[32, 3, 40]]), mask_id=40)
    with pytest.raises(ValueError, match="n must be at least 1"):
        language.ngram(0)
    if language.noiseless is None:
        with pytest.raises(ValueError, match="calls no text ungrammatical"):
            language.grammatical(torch.tensor([[0, 1]]))
