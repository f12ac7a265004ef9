"""The FAST head: cosines, byte pairs, and what is drawn token by token."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import scipy.fft
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from embodied.heads.fast import FASTHead, QuantizedCosines, cosines
from embodied.networks.byte_pairs import BytePairs, compact, learn_merges, merge
from embodied.noise import BatchNoise, RowNoise
from embodied.testing import check_head
from tests.lessons import teach


def make_head(seed: int = 0, **kwargs: Any) -> FASTHead:
    torch.manual_seed(seed)
    sizes = {"action_dim": 2, "pred_horizon": 4, "num_tokens": 2, "dim": 16, "num_layers": 1}
    return FASTHead(**{**sizes, "num_heads": 2, "vocab_size": 64, **kwargs})


def noise(seed: int = 0) -> BatchNoise:
    return BatchNoise(torch.Generator().manual_seed(seed))


def smooth(rows: int, seed: int = 0) -> Tensor:
    """(rows, 4, 2) straight lines within [-1, 1]."""
    ends = torch.rand(rows, 2, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    along = torch.linspace(0, 1, 4)[:, None]
    return ends[:, :1] * (1 - along) + ends[:, 1:] * along


# The cosine transform


@pytest.mark.parametrize("length", [1, 2, 7, 16])
def test_the_matrix_is_scipys_transform(length: int) -> None:
    x = torch.randn(length, 3)
    expected = scipy.fft.dct(x.double().numpy(), type=2, norm="ortho", axis=0)
    torch.testing.assert_close(cosines(length) @ x, torch.from_numpy(expected).float())


def test_low_frequencies_come_first_and_dimensions_together() -> None:
    # A constant c has one coefficient, sqrt(H) c: 2 * 0.5 * 10 = 10 and 2 * -0.25 * 10 = -5.
    transform = QuantizedCosines(4, 2, scale=10.0)
    found = transform.quantize(torch.tensor([0.5, -0.25]).expand(1, 4, 2)) - transform.bound
    assert found.tolist() == [[10, -5, 0, 0, 0, 0, 0, 0]]


@given(
    data=st.lists(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=2), min_size=1),
    scale=st.floats(0.5, 100),
)
def test_actions_come_back_within_the_quantisation(data: list[list[float]], scale: float) -> None:
    action = torch.tensor(data)[None]
    transform = QuantizedCosines(action.shape[1], 2, scale=scale)
    numbers = transform.quantize(action)
    assert 0 <= int(numbers.min()) <= int(numbers.max()) < transform.num_levels
    error = (transform.restore(numbers) - action).norm(dim=1)  # of each dimension
    # Each of H coefficients is off by half a level, or by one at the outermost level.
    assert float(error.max()) <= math.sqrt(action.shape[1]) * 0.501 / scale + 1e-5


def test_what_no_action_within_bounds_has_is_cut() -> None:
    transform = QuantizedCosines(4, 1, scale=10.0)
    assert transform.num_levels == 2 * 20 + 1
    assert transform.quantize(torch.full((1, 4, 1), 9.0))[0].tolist() == [40, 20, 20, 20]


# Byte pairs


def words(text: str, length: int = 12) -> Tensor:
    """Sequences of letters a, b, ... -> numbers 0, 1, ..., padded."""
    rows = [[ord(c) - 97 for c in word] for word in text.split()]
    return torch.tensor([row + [-1] * (length - len(row)) for row in rows])


def slow_encode(symbols: list[int], merges: list[tuple[int, int]], alphabet: int) -> list[int]:
    """Each merge in the order learned, wherever it applies from left to right."""
    for token, pair in enumerate(merges, start=alphabet):
        out: list[int] = []
        i = 0
        while i < len(symbols):
            if tuple(symbols[i : i + 2]) == pair:
                out.append(token)
                i += 2
            else:
                out.append(symbols[i])
                i += 1
        symbols = out
    return symbols


def test_the_pair_that_is_met_most_often_is_merged_first() -> None:
    # ab is met four times and no other pair so often; then X = ab: Xc twice.
    merges = learn_merges(words("abc abc abd bba", length=4), 4, 10)
    assert merges == [(0, 1), (4, 2)]


def test_pairs_do_not_reach_from_one_sequence_into_the_next() -> None:
    assert learn_merges(words("ab cd ab cd", length=2), 4, 10) == [(0, 1), (2, 3)]
    assert learn_merges(words("a b a b", length=1), 2, 10) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [("aaaa", "cc"), ("aaaaa", "cca"), ("baaab", "bcab"), ("aab", "cb"), ("bb", "bb")],
)
def test_overlapping_pairs_are_merged_from_the_left(text: str, expected: str) -> None:
    tokens = words(text)
    hit = (tokens[:, :-1] == 0) & (tokens[:, 1:] == 0)
    assert torch.equal(merge(tokens, hit, torch.tensor(2)), words(expected))


def test_what_is_kept_moves_together() -> None:
    x, keep = torch.tensor([[5, 6, 7], [8, 9, 4]]), torch.tensor([[1, 0, 1], [0, 1, 1]]).bool()
    assert compact(x, keep, 3).tolist() == [[5, 7, -1], [9, 4, -1]]
    assert compact(x, keep, 1).tolist() == [[5], [9]]


@given(data=st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=2, max_size=20))
def test_byte_pairs_are_those_of_the_slow_way_and_come_back(data: list[list[int]]) -> None:
    symbols = torch.tensor(data)
    pairs = BytePairs(alphabet=4, vocabulary=12, length=6)
    pairs.fit(symbols[: len(data) // 2])  # the rest is new to it
    merges = [(a, b) for a, b in pairs.merges.tolist() if a >= 0]
    tokens = pairs.encode(symbols)
    expected = [slow_encode(row, merges, 4) for row in data]
    assert [[t for t in row if t >= 0] for row in tokens.tolist()] == expected
    assert torch.equal(pairs.decode(tokens), symbols)
    told = pairs.num_symbols[tokens.clamp(min=0)] * (tokens >= 0)
    assert told.sum(1).tolist() == [6] * len(data)


def test_a_learned_pair_is_the_most_frequent_of_the_slow_count() -> None:
    symbols = torch.randint(0, 3, (50, 6), generator=torch.Generator().manual_seed(0))
    merges = learn_merges(symbols, 3, 4)
    assert len(merges) == 4
    for i, pair in enumerate(merges):
        rows = [slow_encode(row, merges[:i], 3) for row in symbols.tolist()]
        counts = Counter(found for row in rows for found in zip(row, row[1:], strict=False))
        assert counts[pair] == max(counts.values())


def test_merges_travel_with_the_weights() -> None:
    head, other = make_head(), make_head(seed=1)
    head.fit(smooth(500))
    assert not torch.equal(head.tokenize(smooth(9)), other.tokenize(smooth(9)))
    other.load_state_dict(head.state_dict())
    assert torch.equal(head.tokenize(smooth(9)), other.tokenize(smooth(9)))
    assert torch.equal(head.pairs.num_symbols, other.pairs.num_symbols)
    context = torch.randn(9, 2, 16)
    assert torch.equal(head.sample(context, noise=noise()), other.sample(context, noise=noise()))
    again = make_head(seed=2)
    again.fit(smooth(500))  # as a process that is resumed, or another of the same run
    assert torch.equal(head.pairs.merges, again.pairs.merges)


def test_fitting_anew_forgets_the_former_merges() -> None:
    head = make_head()
    head.fit(smooth(500))
    head.fit(torch.zeros(1, 4, 2))  # 00000000: X = 00, met seven times; Y = XX, three times
    zero = head.cosines.bound
    merges = [pair for pair in head.pairs.merges.tolist() if pair[0] >= 0]
    assert merges == [[zero, zero], [41, 41]]
    assert head.tokenize(torch.zeros(1, 4, 2))[0].tolist() == [42, 42] + [-1] * 6


# The head


def test_byte_pairs_make_sequences_shorter_and_lose_nothing() -> None:
    head, chunk = make_head(vocab_size=200), smooth(400, seed=1)
    before = head.tokenize(chunk)
    plain = head.detokenize(before)
    assert float((plain - chunk).abs().max()) <= math.sqrt(4) / 20 + 1e-6
    assert bool((before >= 0).all())
    head.fit(smooth(400))
    tokens = head.tokenize(chunk)
    assert float((tokens >= 0).sum(1).float().mean()) < 6  # of 8
    torch.testing.assert_close(head.detokenize(tokens), plain)


def test_short_sequences_lack_high_frequencies_and_long_ones_are_cut() -> None:
    head = make_head()
    tokens = head.tokenize(torch.tensor([[0.5, -0.5]]).expand(4, 2)[None])
    short = head.detokenize(tokens[:, :2])
    torch.testing.assert_close(short, torch.tensor([[0.5, -0.5]]).expand(1, 4, 2))
    long = torch.cat([tokens, tokens], dim=1)
    assert torch.equal(head.detokenize(long), head.detokenize(tokens))
    everything = torch.randint(-1, 64, (50, 20), generator=torch.Generator().manual_seed(0))
    assert head.detokenize(everything).shape == (50, 4, 2)


def test_tokens_are_the_same_under_autocast() -> None:
    head, chunk = make_head(), smooth(100)
    tokens = head.tokenize(chunk)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head.tokenize(chunk), tokens)
        assert head.detokenize(tokens).dtype == torch.float32


def test_the_loss_is_that_of_the_tokens_given_those_before_them() -> None:
    head = make_head().requires_grad_(False)
    head.fit(smooth(200))
    context, action = torch.randn(3, 2, 16), smooth(3)
    tokens = head.tokenize(action)
    memories = head.transformer.remember(context)
    for row in range(3):
        grown = [(k[row : row + 1], v[row : row + 1]) for k, v in memories]
        x, missing, nats = head.start, 8, 0.0
        for i, token in enumerate(tokens[row][tokens[row] >= 0]):
            out, grown = head.transformer.extend((x + head.position[i])[None, None], grown)
            possible = head.pairs.num_symbols <= missing
            logits = head.out(out[0, 0]).masked_fill(~possible, -torch.inf)
            nats -= float(logits.log_softmax(-1)[token])
            missing -= int(head.pairs.num_symbols[token])
            x = head.embed(token)
        assert missing == 0
        loss = head.loss(context, action, noise=noise())[row]
        assert loss.tolist() == pytest.approx([nats / 8] * 4, rel=1e-4)


def test_probabilities_of_all_sequences_add_up_to_one() -> None:
    head = make_head(pred_horizon=2, action_dim=1, scale=1.0, vocab_size=6).requires_grad_(False)
    # Levels -1, 0, 1 of two coefficients are tokens 0, 1, 2; one merge is learned, 12.
    head.pairs.fit(torch.tensor([[1, 2], [1, 2]]))
    sequences = [[a, b] for a in range(3) for b in range(3)] + [[3, -1]]
    tokens = torch.tensor(sequences)
    logits = head._logits(torch.randn(1, 2, 16).expand(10, -1, -1), tokens)
    log_p = logits.log_softmax(-1).gather(2, tokens.clamp(min=0)[..., None])[..., 0]
    total = log_p.masked_fill(tokens < 0, 0).sum(1).exp().sum()
    assert float(total) == pytest.approx(1.0, abs=1e-5)


@pytest.fixture(scope="module", params=[True, False], ids=["fitted", "unfitted"])
def trained(request: pytest.FixtureRequest) -> FASTHead:
    """A head that has seen two chunks, one three times as often as the other."""
    head = make_head()
    action = torch.tensor([-0.6, 0.6, 0.6, 0.6]).repeat(16)[:, None, None].expand(-1, 4, 2)
    if request.param:
        head.fit(action)
    teach(head, torch.zeros(64, 2, 16), action, steps=120, learning_rate=1e-2)
    return head.requires_grad_(False)


def test_two_modes_are_kept_apart_and_as_likely_as_they_are(trained: FASTHead) -> None:
    found = trained.sample(torch.zeros(400, 2, 16), noise=noise(9))
    near = (found.abs() - 0.6).abs().amax((1, 2)) < 0.01
    assert float(near.float().mean()) > 0.95
    assert float((found[:, 0, 0] > 0).float().mean()) == pytest.approx(0.75, abs=0.08)
    # At best, the entropy of 1/4 : 3/4, 0.562 nats, over eight coefficients.
    action = torch.tensor([-0.6, 0.6, 0.6, 0.6])[:, None, None].expand(-1, 4, 2)
    loss = trained.loss(torch.zeros(4, 2, 16), action, noise=noise()).mean()
    assert float(loss) == pytest.approx(0.562 / 8, abs=0.02)


def test_without_temperature_the_likelier_mode_is_taken(
    trained: FASTHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained, "temperature", 0.0)
    found = trained.sample(torch.zeros(5, 2, 16), noise=noise(1))
    torch.testing.assert_close(found, torch.full((5, 4, 2), 0.6))


def test_what_a_row_draws_later_does_not_depend_on_its_neighbours() -> None:
    """Sequences differ in length, and an episode goes on with the generator it has."""
    head, context = make_head(), torch.randn(6, 2, 16)
    head.fit(smooth(300))
    rows = [torch.Generator().manual_seed(i) for i in range(6)]
    head.sample(context, noise=RowNoise(rows))
    alone = torch.Generator().manual_seed(2)
    head.sample(context[2:3], noise=RowNoise([alone]))
    assert torch.equal(rows[2].get_state(), alone.get_state())


def test_the_head_keeps_the_contract() -> None:
    context, action = torch.randn(5, 2, 16), torch.rand(5, 4, 2) * 2 - 1
    check_head(make_head(), context, action)
    head = make_head(temperature=0.0, vocab_size=1024, patch=2)
    head.fit(smooth(100))
    check_head(head, context, action)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"vocab_size": 40}, "vocabulary must hold the 41 symbols of the alphabet, got 40"),
        ({"scale": 0.0}, "scale must be more than 0, got 0.0"),
        ({"temperature": -1.0}, "temperature must be 0 or more, got -1.0"),
    ],
)
def test_a_wrong_setting_is_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_head(**kwargs)
