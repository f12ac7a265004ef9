"""State tokens: one for each piece, which depends on that piece alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from embodied.encoders.observation import StateEncoder
from embodied.noise import BatchNoise
from embodied.structs import Condition, Observation, Spec

SPEC = Spec(5, 1, (-1.0,), (1.0,), 10.0)


def test_each_piece_of_each_step_is_a_token() -> None:
    encoder = StateEncoder(spec=SPEC, obs_horizon=2, dim=8, pieces=(2, 3))
    assert encoder.num_tokens == 4
    encoder.normalizer.fit(torch.randn(10, 5))
    state = torch.randn(3, 2, 5)
    tokens = encoder(Observation(state), Condition())
    assert tokens.shape == (3, 4, 8)
    changed = state.clone()
    changed[:, 1, 3] += 1  # the second piece of the last step
    same = (encoder(Observation(changed), Condition()) == tokens).all(-1)
    assert same.tolist() == [[True, True, True, False]] * 3


def test_by_default_the_state_is_one_token() -> None:
    encoder = StateEncoder(spec=SPEC, obs_horizon=3, dim=8)
    encoder.normalizer.fit(torch.randn(10, 5))
    assert encoder(Observation(torch.randn(2, 3, 5)), Condition()).shape == (2, 3, 8)


@pytest.mark.parametrize("pieces", [(2, 2), (6,), (5, 0)])
def test_pieces_must_make_up_the_state(pieces: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"add up to the state's 5 numbers, got \["):
        StateEncoder(spec=SPEC, obs_horizon=1, dim=8, pieces=pieces)


def test_changes_are_seen_beside_the_state_and_need_the_start() -> None:
    torch.manual_seed(0)
    encoder = StateEncoder(spec=SPEC, obs_horizon=2, dim=8, pieces=(2, 3), changes=True)
    state = torch.randn(6, 2, 5)
    encoder.fit_normalizers(Observation(10 * state[:, :1]), Condition())
    begun, moved = Observation(state[:, :1]), Observation(state[:, :1].clone())
    moved.state[0, 0, 3] += 1

    def tokens(start: Observation) -> Tensor:
        found: Tensor = encoder(Observation(state), Condition(start=start))
        return found

    assert tokens(begun).shape == (6, 4, 8)
    differs = (tokens(begun) != tokens(moved)).any(-1)
    assert differs.nonzero().tolist() == [[0, 2], [0, 3]]
    with pytest.raises(ValueError, match=r"source\.told\.start=true"):
        encoder(Observation(state), Condition())


def test_training_alone_sees_states_under_noise_of_one_size_for_all_numbers() -> None:
    """What reaches the MLP, of numbers whose own sizes differ."""
    encoder = StateEncoder(spec=SPEC, obs_horizon=1, dim=8, noise=0.1)
    sizes = torch.tensor([1.0, 10.0, 100.0, 0.1, 3.0])
    encoder.normalizer.fit(sizes * torch.randn(1000, 5))
    encoder.mlps[0] = torch.nn.Identity()
    observation = Observation(torch.zeros(4000, 1, 5))
    drawn = BatchNoise(torch.Generator().manual_seed(0), start=0, total=4000)
    clean = encoder(observation, Condition())
    difference = encoder(observation, Condition(), noise=drawn) - clean
    assert difference.std(0)[0].tolist() == pytest.approx([0.1] * 5, rel=0.05)
    assert difference.mean(0)[0].tolist() == pytest.approx([0.0] * 5, abs=0.01)
    assert torch.equal(encoder(observation, Condition()), clean)


def test_noise_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise must be at least 0, got -0\.1"):
        StateEncoder(spec=SPEC, obs_horizon=1, dim=8, noise=-0.1)
