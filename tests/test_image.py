"""Image tokens: where things are, whatever the batch; shifts move whole pixels."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from embodied.encoders.fuse import TokenEncoder
from embodied.encoders.image import ImageEncoder
from embodied.encoders.language import LanguageEncoder
from embodied.heads.edm import EDMHead
from embodied.networks.vision import ResNet, SpatialSoftmax, shift
from embodied.noise import BatchNoise, seeded
from embodied.policies.chunk import ChunkPolicy
from embodied.structs import Batch, Condition, Observation, Spec
from embodied.testing import check_policy

CPU = torch.device("cpu")
SPEC = Spec(1, 2, (-1.0, -1.0), (1.0, 1.0), 10.0, cameras={"top": (24, 32), "wrist": (16, 16)})
SMALL = (8, 16)


def draw(rows: int, steps: int = 1, spec: Spec = SPEC) -> Observation:
    generator = seeded(0, rows, CPU)
    images = {
        name: torch.randint(256, (rows, steps, 3, *size), generator=generator, dtype=torch.uint8)
        for name, size in spec.cameras.items()
    }
    return Observation(torch.zeros(rows, steps, 1), images)


def encoder(**options: Any) -> ImageEncoder:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"spec": SPEC, "obs_horizon": 1, "dim": 8, "channels": SMALL}
    return ImageEncoder(**settings | options)


def test_each_place_of_the_features_can_be_a_token_of_what_is_there() -> None:
    part = encoder(grid=True, shift=0)
    observation = draw(3)
    tokens = part(observation, Condition())
    assert tokens.shape == (3, part.num_tokens, 8)
    first = 6 * 8  # places of the first camera: its sides, halved by each of two stages
    assert part.num_tokens == first + 4 * 4
    changed = {name: x.clone() for name, x in observation.images.items()}
    changed["top"][..., :2, :2] = 255 - changed["top"][..., :2, :2]  # a corner
    moved = (part(Observation(observation.state, changed), Condition()) - tokens).abs().amax((0, 2))
    assert moved[0] > 3 * moved[1:first].mean()  # the norm over groups spreads a little
    assert not moved[first:].any()  # of the other camera


def test_a_lone_peak_is_found_where_it_is() -> None:
    features = torch.zeros(1, 2, 5, 9)
    features[0, 0, 0, 8] = 50.0  # top right
    features[0, 1, 4, 2] = 50.0  # bottom, a quarter from the left
    x, y = SpatialSoftmax()(features).view(2, 2)
    torch.testing.assert_close(x, torch.tensor([1.0, -0.5]))
    torch.testing.assert_close(y, torch.tensor([-1.0, 1.0]))


def test_flat_activation_is_in_the_middle() -> None:
    assert SpatialSoftmax()(torch.ones(1, 1, 4, 6)).abs().max() < 1e-6


def test_a_shift_moves_pixels_and_repeats_the_edge() -> None:
    image = torch.arange(12).view(1, 1, 3, 4).expand(2, 1, 3, 4)
    moved = shift(image, right=torch.tensor([1, 0]), down=torch.tensor([0, -2]))
    rows = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(moved[0, 0], rows[:, [0, 0, 1, 2]])
    np.testing.assert_array_equal(moved[1, 0], rows[[2, 2, 2]])


def test_all_steps_of_a_row_are_moved_alike_and_only_in_training() -> None:
    part = encoder(obs_horizon=2, shift=3)
    images = draw(1, 1).images["top"].expand(4, 2, 3, 24, 32)
    observation = Observation(
        torch.zeros(4, 2, 1), {"top": images, "wrist": draw(4, 2).images["wrist"]}
    )
    moved = part._moved(images, BatchNoise(seeded(0, 0, CPU)))
    assert torch.equal(moved[:, 0], moved[:, 1])
    assert not torch.equal(moved, images)
    still = part(observation, Condition())
    assert torch.equal(still, part(observation, Condition()))
    assert not torch.equal(
        still, part(observation, Condition(), noise=BatchNoise(seeded(0, 0, CPU)))
    )


def test_each_camera_and_step_has_a_token_that_depends_on_it_alone() -> None:
    part = encoder(obs_horizon=2).eval()
    observation = draw(3, 2)
    tokens = part(observation, Condition())
    assert part.num_tokens == 4
    assert tokens.shape == (3, 4, 8)
    wrist = observation.images["wrist"].clone()
    wrist[:, 1] = 255 - wrist[:, 1]
    changed = part(
        Observation(observation.state, {**observation.images, "wrist": wrist}), Condition()
    )
    assert torch.isclose(changed, tokens).all(-1).tolist() == [[True, True, True, False]] * 3


def test_a_network_sees_each_row_alone() -> None:
    network = ResNet(SMALL)
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(network(x)[1:2], network(x[1:2]))
    assert network(x).shape == (4, 16, 4, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cameras": ["side"]}, r"needs cameras out of \['top', 'wrist'\], got \['side'\]"),
        ({"spec": Spec(1, 1, (0.0,), (1.0,), 1.0)}, "give data with images"),
        ({"shift": -1}, "shift must be 0 pixels or more"),
        ({"channels": (12,)}, "multiples of 8"),
    ],
)
def test_what_cannot_be_built_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encoder(**options)


def test_an_observation_with_other_images_is_refused() -> None:
    observation = draw(2)
    with pytest.raises(ValueError, match="not of 'wrist'"):
        encoder()(Observation(observation.state, {"top": observation.images["top"]}), Condition())
    small = {"top": observation.images["wrist"], "wrist": observation.images["wrist"]}
    with pytest.raises(ValueError, match=r"must be \(24, 32\) pixels"):
        encoder()(Observation(observation.state, small), Condition())


def policy(spec: Spec, **options: Any) -> ChunkPolicy:
    parts: dict[str, Any] = {
        "image": functools.partial(ImageEncoder, channels=SMALL, **options),
        "language": LanguageEncoder,
    }
    torch.manual_seed(0)
    return ChunkPolicy(
        spec=spec,
        encoder=functools.partial(TokenEncoder, parts),
        head=functools.partial(EDMHead, num_layers=1, num_heads=2, patch=1),
        pred_horizon=2,
        dim=16,
    )


def test_a_policy_that_sees_keeps_the_contract() -> None:
    built = policy(SPEC, shift=2)
    language = ("left", "right", "up")
    batch = Batch(draw(3), Condition(language), torch.rand(3, 2, 2) - 0.5, torch.ones(3, 2).bool())
    built.fit_normalizers(batch.observation, batch.condition, batch.action.flatten(0, 1))
    check_policy(built, batch)


def test_a_policy_learns_to_point_at_what_only_pixels_show() -> None:
    spec = Spec(1, 2, (-1.0, -1.0), (1.0, 1.0), 10.0, cameras={"top": (16, 16)})
    generator = seeded(1, 0, CPU)

    def batch(rows: int) -> Batch:
        place = torch.randint(2, 14, (rows, 2), generator=generator)
        images = torch.zeros(rows, 1, 3, 16, 16, dtype=torch.uint8)
        for image, (x, y) in zip(images, place.tolist(), strict=True):
            image[..., y - 1 : y + 2, x - 1 : x + 2] = 255
        action = (place / 7.5 - 1)[:, None].expand(rows, 2, 2)
        observation = Observation(torch.zeros(rows, 1, 1), {"top": images})
        return Batch(observation, Condition(("point",) * rows), action, torch.ones(rows, 2).bool())

    built = policy(spec, shift=0)
    data = batch(512)
    built.fit_normalizers(data.observation, Condition(("point",)), data.action.flatten(0, 1))
    optimizer = torch.optim.AdamW(built.parameters(), lr=3e-3)
    for step in range(150):
        rows = batch(64)
        loss, _ = built(rows, BatchNoise(seeded(2, step, CPU)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unseen = batch(64)
    with torch.no_grad():
        action = built.eval().act(
            unseen.observation, unseen.condition, noise=BatchNoise(seeded(3, 0, CPU))
        )
    error = (action - unseen.action).abs().mean()
    blind = (unseen.action - data.action.mean((0, 1))).abs().mean()
    assert error < blind / 3
