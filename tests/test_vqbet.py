"""The VQ-BeT head: its codes, its losses, and the modes that it keeps."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embodied.ema import EMA
from embodied.encoders.observation import StateEncoder
from embodied.heads.codes import draw
from embodied.heads.vqbet import VQBeTHead, focal_loss
from embodied.networks.residual_vq import ResidualVQ, nearest
from embodied.noise import BatchNoise
from embodied.policies.chunk import ChunkPolicy
from embodied.structs import Condition, Observation, Spec
from embodied.testing import check_head
from tests.lessons import teach


def make_head(seed: int = 0, **kwargs: Any) -> VQBeTHead:
    torch.manual_seed(seed)
    sizes = {"action_dim": 2, "pred_horizon": 4, "num_tokens": 2, "dim": 16, "num_layers": 1}
    return VQBeTHead(**{**sizes, "num_heads": 2, "tokenizer_steps": 100, **kwargs})


def make_vq(seed: int = 0, num_layers: int = 2, num_codes: int = 4) -> ResidualVQ:
    torch.manual_seed(seed)
    return ResidualVQ(
        pred_horizon=4,
        action_dim=2,
        num_layers=num_layers,
        num_codes=num_codes,
        latent_dim=32,
        hidden_dim=128,
    )


def noise(seed: int = 0) -> BatchNoise:
    return BatchNoise(torch.Generator().manual_seed(seed))


def clusters(rows: int, spread: float = 0.0) -> Tensor:
    """(rows, 4, 2) chunks around four centres, row i around the centre i % 4."""
    random = torch.Generator().manual_seed(3)
    centres = torch.rand(4, 4, 2, generator=random) * 2 - 1
    around = spread * torch.randn(rows, 4, 2, generator=random)
    return centres[torch.arange(rows) % 4] + around


# The autoencoder


def test_the_nearest_code_is_found() -> None:
    book = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    x = torch.tensor([[0.4, 0.1], [0.6, 0.1], [0.1, 1.1], [5.0, 0.0]])
    assert nearest(x, book).tolist() == [0, 1, 2, 1]


def test_a_layer_tells_what_the_layers_before_it_left() -> None:
    vq = make_vq()
    vq.encoder, vq.decoder = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    vq.codebooks = torch.zeros(2, 2, 8)
    vq.codebooks[0, 1] = 1.0
    vq.codebooks[1, 1] = 0.25
    chunk = torch.stack([torch.full((4, 2), x) for x in (0.1, 0.2, 0.9, 1.3)])
    codes = vq.encode(chunk)
    assert codes.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert vq.decode(codes)[:, 0, 0].tolist() == [0.0, 0.25, 1.0, 1.25]


def test_clustered_chunks_get_a_code_each_and_come_back() -> None:
    vq, chunk = make_vq(), clusters(400, spread=0.01)
    before = float((vq.decode(vq.encode(chunk)) - chunk).abs().mean())
    vq.fit(chunk, steps=300)
    codes = vq.encode(chunk)
    for i in range(4):
        of_others = codes[torch.arange(400) % 4 != i]
        mine = codes[i::4].unique(dim=0)
        assert not (of_others[:, None] == mine).all(-1).any()
    error = float((vq.decode(codes) - chunk).abs().mean())
    assert error < 0.05 < 0.2 < before


def test_codes_that_nobody_chooses_are_moved_to_the_data() -> None:
    random = torch.Generator().manual_seed(0)
    chunk = torch.rand(500, 4, 2, generator=random) * 2 - 1
    vq = make_vq(num_codes=8)
    vq.codebooks[:, 1:] = 100.0  # all but one are far from everything
    assert [len(codes.unique()) for codes in vq.encode(chunk).T] == [1, 1]
    vq.fit(chunk, steps=300)
    assert [len(codes.unique()) for codes in vq.encode(chunk).T] == [8, 8]


@pytest.mark.slow  # trainings
def test_a_second_layer_makes_the_error_smaller() -> None:
    square = torch.rand(500, 1, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    chunk, errors = square.expand(-1, 4, -1), []
    for num_layers in (1, 2):
        vq = make_vq(num_layers=num_layers)
        vq.fit(chunk, steps=300)
        errors.append(float((vq.decode(vq.encode(chunk)) - chunk).abs().mean()))
    # A square of side 2 in four squares: a mean distance of 1/4 along each side; in sixteen, 1/8.
    assert errors == pytest.approx([0.25, 0.125], abs=0.04)


def test_fitting_depends_on_the_data_and_the_first_weights_alone() -> None:
    fitted = []
    for seed in (1, 2):
        vq = make_vq()
        torch.manual_seed(seed)  # other draws elsewhere
        state = torch.get_rng_state()
        vq.fit(clusters(40), steps=5)
        assert torch.equal(torch.get_rng_state(), state)
        fitted.append(vq.state_dict())
    assert all(torch.equal(x, fitted[1][name]) for name, x in fitted[0].items())


def test_an_autoencoder_is_no_business_of_optimisers_and_averages() -> None:
    head = make_head()
    assert not [name for name, _ in head.named_parameters() if name.startswith("vq.")]
    head.fit(clusters(40))
    assert not [name for name, _ in head.named_parameters() if name.startswith("vq.")]
    average = EMA(head, decay=0.5)
    before = {name: x.clone() for name, x in head.vq.state_dict().items()}
    with average.applied():
        assert all(torch.equal(x, before[name]) for name, x in head.vq.state_dict().items())


def test_the_codes_travel_with_the_weights() -> None:
    head, other = make_head(), make_head(seed=1)
    head.fit(clusters(100))
    other.load_state_dict(head.state_dict())
    chunk, context = clusters(9, spread=0.1), torch.randn(9, 2, 16)
    assert torch.equal(head.vq.encode(chunk), other.vq.encode(chunk))
    assert torch.equal(head.sample(context, noise=noise()), other.sample(context, noise=noise()))


def test_codes_are_the_same_under_autocast() -> None:
    head, chunk = make_head(), clusters(50, spread=0.2)
    codes = head.vq.encode(chunk)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head.vq.encode(chunk), codes)
        assert head.vq.decode(codes).dtype == torch.float32


# Draws


def test_codes_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([0.1, 0.0, 0.6, 0.3]).log().expand(10_000, 4)
    codes = draw(logits, noise().uniform(10_000, device=torch.device("cpu")))
    shares = codes.bincount(minlength=4) / 10_000
    assert shares.tolist() == pytest.approx([0.1, 0.0, 0.6, 0.3], abs=0.02)


def test_draws_by_hand() -> None:
    logits = torch.tensor([0.0, 0.25, 0.25, 0.5, 0.0]).log().expand(5, 5)
    u = torch.tensor([0.0, 0.2499, 0.25, 0.6, 1 - 2**-24])
    assert draw(logits, u).tolist() == [1, 1, 2, 3, 3]
    assert draw(logits, u, temperature=0.0).tolist() == [3] * 5
    # Divided by 1/2, logits give squares: 1 : 1 : 4.
    assert draw(logits, torch.full((5,), 0.3), temperature=0.5).tolist() == [2] * 5
    assert draw(logits, torch.full((5,), 0.35), temperature=0.5).tolist() == [3] * 5


# The head


def test_the_focal_loss_by_hand() -> None:
    # p = 1/2: (1/2)^2 ln 2; p = 1: 0; gamma = 0: the cross-entropy.
    log_p = torch.tensor([0.5, 1.0]).log()
    assert focal_loss(log_p, 2.0).tolist() == pytest.approx([0.693147 / 4, 0.0])
    assert focal_loss(log_p, 0.0).tolist() == pytest.approx([0.693147, 0.0])


def test_probabilities_of_all_codes_add_up_to_one() -> None:
    head = make_head(num_codes=5).requires_grad_(False)
    pairs = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    features = head._features(torch.randn(1, 2, 16)).expand(25, -1, -1)
    assert head._log_prob(features, pairs).sum(1).exp().sum().item() == pytest.approx(1.0)


def test_offsets_are_those_of_the_chosen_codes() -> None:
    head = make_head(num_codes=3).requires_grad_(False)
    features, codes = torch.randn(2, 4, 16), torch.tensor([[0, 2], [1, 1]])
    table = head.offset(features).view(2, 4, 2, 3, 2)
    decoded = head.vq.decode(codes)
    found = head._action(features, codes)
    torch.testing.assert_close(found[0], decoded[0] + table[0, :, 0, 0] + table[0, :, 1, 2])
    torch.testing.assert_close(found[1], decoded[1] + table[1, :, 0, 1] + table[1, :, 1, 1])


def test_the_loss_weighs_codes_and_offsets() -> None:
    head = make_head(offset_weight=7.0).requires_grad_(False)
    context, action = torch.randn(6, 2, 16), clusters(6, spread=0.1)
    features, codes = head._features(context), head.vq.encode(action)
    focal = focal_loss(head._log_prob(features, codes), 2.0)
    error = (head._action(features, codes) - action).abs().mean(-1)
    expected = 7 * error + (5 * focal[:, 0] + 0.5 * focal[:, 1])[:, None]
    torch.testing.assert_close(head.loss(context, action, noise=noise()), expected)


@pytest.mark.slow  # trainings
@pytest.mark.parametrize("fitted", [True, False])
def test_two_modes_are_kept_apart(fitted: bool) -> None:
    head = make_head(num_codes=4)
    action = torch.tensor([-0.6, 0.6]).repeat(32)[:, None, None].expand(-1, 4, 2)
    if fitted:
        head.fit(action)
    teach(head, torch.zeros(64, 2, 16), action, steps=150, learning_rate=1e-2)
    found = head.sample(torch.zeros(400, 2, 16), noise=noise(9)).detach()
    near = (found.abs() - 0.6).abs().amax((1, 2)) < 0.1
    assert float(near.float().mean()) > 0.95
    assert 0.4 < float((found[:, 0, 0] > 0).float().mean()) < 0.6


def test_the_head_keeps_the_contract() -> None:
    context, action = torch.randn(5, 2, 16), torch.rand(5, 4, 2) * 2 - 1
    check_head(make_head(), context, action)
    head = make_head(patch=2, num_codebooks=3, temperature=0.5)
    head.fit(action)
    check_head(head, context, action)
    check_head(make_head(num_codebooks=1), context, action)


def test_a_policy_fits_its_head_to_chunks_within_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(VQBeTHead, "fit", lambda self, action: seen.append(action))
    policy = ChunkPolicy(
        spec=Spec(1, 1, (-1.0,), (1.0,), 10.0),
        encoder=StateEncoder,
        head=functools.partial(VQBeTHead, num_layers=1, num_heads=2),
        pred_horizon=3,
        dim=4,
    )
    states, action = Observation(torch.rand(5, 1, 1)), torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    policy.fit_normalizers(states, Condition(), action[:, None], lengths=torch.tensor([3, 2]))
    # Normalised a / 2 - 1; an episode's last action is repeated, as in training.
    chunks = [[0, 1, 2], [1, 2, 2], [2, 2, 2], [3, 4, 4], [4, 4, 4]]
    assert len(seen) == 1
    assert torch.equal(seen[0][:, :, 0], torch.tensor(chunks) / 2 - 1)
    policy.fit_normalizers(states, Condition(), action[:, None])
    assert len(seen) == 1  # without lengths nobody knows what is a chunk


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_codes": 1}, "need num_codebooks >= 1 and num_codes >= 2, got 2 and 1"),
        ({"num_codebooks": 0}, "need num_codebooks >= 1 and num_codes >= 2, got 0 and 16"),
        ({"temperature": -1.0}, "temperature must be 0 or more, got -1.0"),
    ],
)
def test_a_wrong_setting_is_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_head(**kwargs)
