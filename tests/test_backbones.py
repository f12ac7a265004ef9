"""Backbones for images: from scratch or pretrained, frozen or trained, with drawings and words."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from matplotlib.cbook import get_sample_data
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from embodied import checkpoint
from embodied.encoders.fuse import TokenEncoder
from embodied.encoders.image import ImageEncoder
from embodied.encoders.language import LanguageEncoder
from embodied.encoders.observation import StateEncoder
from embodied.heads.edm import EDMHead
from embodied.loading import build_policy, load_policy
from embodied.networks import efficientnet
from embodied.networks.efficientnet import EfficientNetLite0, read_weights
from embodied.networks.hub import HubNetwork
from embodied.networks.pretrained import Network, Pretrained
from embodied.networks.vision import Backbone, resize
from embodied.networks.vit import ViT
from embodied.noise import BatchNoise, seeded
from embodied.policies.base import Policy
from embodied.policies.chunk import ChunkPolicy
from embodied.structs import Batch, Condition, Observation, Spec
from embodied.targets import ConfigError
from embodied.testing import check_policy

CPU = torch.device("cpu")
SPEC = Spec(1, 2, (-1.0, -1.0), (1.0, 1.0), 10.0, cameras={"top": (24, 32)})
EARLY = {"sketch": "top", "goal_image": "top"}
ROWS = 3
MODELS: dict[str, Any] = {
    "vit": transformers.ViTConfig,
    "dinov2": transformers.Dinov2Config,
    "clip_vision_model": transformers.CLIPVisionConfig,
    "resnet": transformers.ResNetConfig,
}
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
PATCHES = {"num_hidden_layers": 1, "image_size": 16, "patch_size": 4}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}

Make = Callable[..., Backbone]


def folder(path: Path, kind: str, seed: int = 0) -> Path:
    """A tiny model of that kind, with weights drawn with the seed."""
    torch.manual_seed(seed)
    options = RESNET if kind == "resnet" else SIZES | PATCHES
    model = transformers.AutoModel.from_config(MODELS[kind](**options))
    model.save_pretrained(path / kind)
    return path / kind


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    for kind in MODELS:
        folder(path, kind)
    return path


def pretrained(network: Callable[[], Network], **options: Any) -> Make:
    return functools.partial(Pretrained, network=network, image_size=16, **options)


def make(name: str, models: Path) -> Make:
    """A backbone by its name: "vit", "lite0", "lite0 frozen", "hub:resnet", "hub:resnet frozen"."""
    kind, _, frozen = name.partition(" ")
    if kind == "vit":
        return functools.partial(
            ViT, image_size=16, patch=4, channels=16, num_layers=2, num_heads=2
        )
    if kind == "lite0":
        return pretrained(functools.partial(EfficientNetLite0, stages=2), frozen=bool(frozen))
    path = str(models / kind.removeprefix("hub:"))
    return pretrained(functools.partial(HubNetwork, path), frozen=bool(frozen))


TRAINED = ("vit", "lite0", *(f"hub:{kind}" for kind in MODELS))
FROZEN = ("lite0 frozen", "hub:dinov2 frozen", "hub:resnet frozen")


def pixels(seed: int, *shape: int) -> Tensor:
    return torch.randint(256, shape, generator=seeded(0, seed, CPU), dtype=torch.uint8)


OBSERVED = Observation(torch.zeros(ROWS, 1, 1), {"top": pixels(0, ROWS, 1, 3, 24, 32)})
ASKED = Condition(
    language=("left", "right", "up"),
    goal=Observation(torch.zeros(ROWS, 1, 0), {"top": pixels(1, ROWS, 1, 3, 24, 32)}),
    sketch=pixels(2, ROWS, 3, 24, 32),
)
ACTION = torch.rand(ROWS, 4, 2, generator=seeded(0, 3, CPU)) - 0.5
BATCH = Batch(OBSERVED, ASKED, ACTION, torch.ones(ROWS, 4).bool())


def encoder(backbone: Make, **options: Any) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(spec=SPEC, obs_horizon=1, dim=8, backbone=backbone, **options)


def policy(backbone: Make, **options: Any) -> ChunkPolicy:
    image = functools.partial(ImageEncoder, backbone=backbone, shift=2, **options)
    torch.manual_seed(0)
    built = ChunkPolicy(
        spec=SPEC,
        encoder=functools.partial(TokenEncoder, {"image": image, "state": StateEncoder}),
        head=functools.partial(EDMHead, num_layers=1, num_heads=2),
        dim=16,
    )
    states = Observation(torch.rand(9, 1, 1))
    built.fit_normalizers(states, ASKED, torch.rand(9, 2) * 2 - 1)
    return built


def noise(step: int = 0) -> BatchNoise:
    return BatchNoise(seeded(3, step, CPU))


@pytest.mark.parametrize("name", [*TRAINED, *FROZEN])
def test_a_policy_with_any_backbone_keeps_the_contract(name: str, models: Path) -> None:
    check_policy(policy(make(name, models)), BATCH)


@pytest.mark.parametrize("name", ["vit", "lite0", "hub:vit", "hub:resnet"])
def test_with_drawings_and_words_too(name: str, models: Path, fake_language: None) -> None:
    check_policy(policy(make(name, models), early=EARLY, film=LanguageEncoder), BATCH)


@pytest.mark.parametrize("name", ["vit", "lite0", "hub:vit", "hub:resnet", *FROZEN])
def test_one_batch_is_learnt_by_heart(name: str, models: Path) -> None:
    """By the backbone itself where it is trained, otherwise by what follows it."""
    built = encoder(make(name, models), shift=0).train()
    wanted = torch.randn(ROWS, 1, 8, generator=seeded(4, 0, CPU))
    trained = [x for x in built.networks.parameters() if x.requires_grad]
    optimizer = torch.optim.Adam(trained or built.projections.parameters(), lr=1e-2)
    errors = []
    for _ in range(80):
        error = (built(OBSERVED, Condition()) - wanted).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.1 * errors[0]


@pytest.mark.parametrize("name", TRAINED)
def test_the_first_pass_is_that_without_drawings_and_words(
    name: str, models: Path, fake_language: None
) -> None:
    plain = encoder(make(name, models))
    told = encoder(make(name, models), early=EARLY, film=LanguageEncoder)
    told.fit_normalizers(OBSERVED, ASKED)
    assert torch.equal(told(OBSERVED, ASKED), plain(OBSERVED, Condition()))
    moved = plain(OBSERVED, Condition(), noise=noise())
    assert torch.equal(told(OBSERVED, ASKED, noise=noise()), moved)


@pytest.mark.parametrize("name", TRAINED)
def test_drawings_and_words_matter_once_their_weights_do(name: str, models: Path) -> None:
    backbone = make(name, models)(extra_channels=3, film_dim=2)
    with torch.no_grad():
        for i, (key, weight) in enumerate(backbone.named_parameters()):
            if "extra" in key or "film" in key:
                torch.nn.init.normal_(weight, std=0.3, generator=seeded(1, i, CPU))
    x, extra, words = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16), torch.rand(2, 2)
    found = backbone(x, extra, words)
    for other in (backbone(x, None, words), backbone(x, extra, -words)):
        assert not torch.allclose(found, other, atol=1e-3)
    nothing = backbone(x, torch.zeros_like(extra), words)
    assert torch.equal(nothing, backbone(x, None, words))


@pytest.mark.parametrize("name", FROZEN)
class TestFrozen:
    def test_weights_are_neither_trained_nor_saved(self, name: str, models: Path) -> None:
        backbone = make(name, models)()
        assert list(backbone.parameters()) == []
        assert list(backbone.state_dict()) == ["answer"]

    def test_training_leaves_the_features_as_they_are(self, name: str, models: Path) -> None:
        built = policy(make(name, models)).train()
        (backbone,) = (x for x in built.modules() if isinstance(x, Pretrained))
        x = torch.rand(2, 3, 16, 16)
        before = backbone(x)
        optimizer = torch.optim.SGD(built.parameters(), lr=0.1)
        built(BATCH, noise())[0].backward()
        optimizer.step()
        assert torch.equal(backbone(x), before)

    def test_it_goes_where_its_policy_goes(self, name: str, models: Path) -> None:
        backbone = make(name, models)()
        x = torch.rand(1, 3, 16, 16)
        found = backbone.double()(x.double())
        assert found.dtype == torch.float64
        torch.testing.assert_close(found.float(), backbone.float()(x), rtol=1e-4, atol=1e-4)

    def test_words_modulate_the_features(self, name: str, models: Path) -> None:
        backbone = make(name, models)(film_dim=1)
        x = torch.rand(1, 3, 16, 16)
        plain = backbone(x, None, torch.zeros(1, 1))
        with torch.no_grad():
            backbone.film.weight[: backbone.channels] = 2.0  # type: ignore[index, union-attr]
        torch.testing.assert_close(backbone(x, None, torch.full((1, 1), 0.5)), 2 * plain)

    def test_drawings_are_refused(self, name: str, models: Path) -> None:
        with pytest.raises(ValueError, match=r"early needs .* backbone\.frozen=false"):
            encoder(make(name, models), early=EARLY)


def test_batch_normalisation_keeps_its_statistics_in_training(models: Path) -> None:
    network = HubNetwork(str(models / "resnet")).eval()
    for i, norm in enumerate(x for x in network.modules() if isinstance(x, torch.nn.BatchNorm2d)):
        for x in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            torch.nn.init.uniform_(x, 0.5, 1.5, generator=seeded(2, i, CPU))  # type: ignore[arg-type]
    x = torch.rand(4, 3, 16, 16)
    expected = network(x).detach()
    backbone = Pretrained(network=lambda: network, frozen=False, image_size=16).train()
    as_given = 2 * (x * backbone.std + backbone.mean) - 1
    torch.testing.assert_close(backbone(as_given), expected, rtol=1e-4, atol=1e-4)


class Peephole(Network):
    """Shows what a pretrained network gets to see."""

    image_size = 8
    mean = (0.5, 0.25, 0.0)
    std = (0.5, 0.25, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_images_are_resized_and_standardised_as_the_network_wants() -> None:
    backbone = Pretrained(network=Peephole)
    white, black = torch.ones(1, 3, 24, 32), -torch.ones(1, 3, 24, 32)
    expected = torch.tensor([1.0, 3.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    torch.testing.assert_close(backbone(white), expected)
    expected = torch.tensor([-1.0, -1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    torch.testing.assert_close(backbone(black), expected)


def test_a_model_tells_how_images_are_standardised(models: Path, tmp_path: Path) -> None:
    path = folder(tmp_path, "vit")
    assert HubNetwork(str(path)).mean == pytest.approx((0.485, 0.456, 0.406))
    told = '{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}'
    (path / "preprocessor_config.json").write_text(told)
    network = HubNetwork(str(path))
    assert (network.mean, network.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    (path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    assert HubNetwork(str(path)).mean == (0.0, 0.0, 0.0)


def test_resizing_makes_averages_and_leaves_the_same_size_alone() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert resize(image, (4, 4)) is image
    assert resize(torch.full((1, 1, 9, 5), 7.0), (3, 3)).unique().tolist() == pytest.approx([7.0])
    assert resize(image, (2, 2)).mean() == pytest.approx(7.5)


def test_lite0_tells_a_uniform_in_a_picture() -> None:
    """What the same file holds of the classifier names the dress of Grace Hopper."""
    picture = Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    square = picture.crop((0, 0, picture.width, picture.width))
    x = torch.tensor(np.array(square)).permute(2, 0, 1)[None].float() / 127.5 - 1
    backbone = Pretrained(network=functools.partial(EfficientNetLite0, stages=7))
    assert backbone(x).shape == (1, 320, 7, 7)
    weights = read_weights()
    features = F.conv2d(backbone(x), weights["_conv_head.weight"])
    mean, variance, scale, shift = (
        weights[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
    )
    features = F.relu6(F.batch_norm(features, mean, variance, scale, shift, eps=1e-3))
    found = F.linear(features.mean((2, 3)), weights["_fc.weight"], weights["_fc.bias"])
    assert int(found.argmax()) == 652  # "military uniform"


class TestCheckpoints:
    def config(self, **network: Any) -> dict[str, Any]:
        return {
            "seed": 0,
            "policy": {
                "_target_": "embodied.policies.chunk.ChunkPolicy",
                "dim": 16,
                "encoder": {
                    "_target_": "embodied.encoders.image.ImageEncoder",
                    "_partial_": True,
                    "backbone": {
                        "_target_": "embodied.networks.pretrained.Pretrained",
                        "_partial_": True,
                        "image_size": 16,
                        **network,
                    },
                },
                "head": {
                    "_target_": "embodied.heads.edm.EDMHead",
                    "_partial_": True,
                    "num_layers": 1,
                    "num_heads": 2,
                },
            },
        }

    def hub(self, path: Path, **options: Any) -> dict[str, Any]:
        target = "embodied.networks.hub.HubNetwork"
        network = {"_target_": target, "_partial_": True, "model": str(path)}
        return self.config(network=network, **options)

    def lite0(self) -> dict[str, Any]:
        target = "embodied.networks.efficientnet.EfficientNetLite0"
        return self.config(network={"_target_": target, "_partial_": True, "stages": 2})

    def saved(self, path: Path, config: dict[str, Any]) -> ChunkPolicy:
        built = build_policy(config, SPEC)
        assert isinstance(built, ChunkPolicy)
        built.fit_normalizers(OBSERVED, Condition(), torch.rand(9, 2) * 2 - 1)
        with torch.no_grad():
            for x in built.parameters():
                x.add_(0.01)
        documents = {"config": config, "spec": asdict(SPEC)}
        tensors = {"policy": built.state_dict()}
        checkpoint.save(path / "checkpoints", 1, tensors=tensors, documents=documents)
        return built.eval()

    def acts(self, built: Policy) -> Tensor:
        return built.act(OBSERVED, Condition(), noise=noise())

    def test_a_frozen_backbone_is_rebuilt_from_what_it_is_called(
        self, tmp_path: Path, models: Path
    ) -> None:
        for name, config in (("lite0", self.lite0()), ("hub", self.hub(models / "dinov2"))):
            built = self.saved(tmp_path / name, config)
            loaded, found = load_policy(tmp_path / name, "cpu")
            assert torch.equal(self.acts(loaded), self.acts(built))
            kept = [key for key in found.tensors["policy"] if ".networks." in key]
            assert kept == ["encoder.networks.0.answer"]

    def test_a_trained_backbone_is_in_the_checkpoint(self, tmp_path: Path) -> None:
        path = folder(tmp_path, "vit")
        built = self.saved(tmp_path, self.hub(path, frozen=False))
        folder(tmp_path, "vit", seed=1)  # the weights to begin with are not asked for any more
        loaded, _ = load_policy(tmp_path, "cpu")
        assert torch.equal(self.acts(loaded), self.acts(built))

    def test_a_frozen_backbone_with_other_weights_is_refused(self, tmp_path: Path) -> None:
        path = folder(tmp_path, "vit")
        self.saved(tmp_path, self.hub(path))
        folder(tmp_path, "vit", seed=1)
        with pytest.raises(ValueError, match="weights are not those that the policy was trained"):
            load_policy(tmp_path, "cpu")


@pytest.mark.parametrize("name", ["chunk_vit", "chunk_pretrained", "chunk_hub"])
def test_each_config_builds_a_policy_that_acts(
    name: str, compose: Callable[..., dict[str, Any]], tmp_path: Path, models: Path
) -> None:
    model = f"policy.encoder.parts.image.backbone.network.model={models / 'resnet'}"
    options = [model] if name == "chunk_hub" else []
    spec = replace(SPEC, state_dim=10)
    observed = replace(OBSERVED, state=torch.rand(ROWS, 1, 10))
    built = build_policy(compose(tmp_path, f"policy={name}", *options), spec)
    built.fit_normalizers(observed, ASKED, torch.rand(9, 2) * 2 - 1)
    assert built.eval().act(observed, ASKED, noise=noise()).shape == (ROWS, 4, 2)


def test_a_model_must_be_named(compose: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"E_CONFIG_MISSING: .*backbone\.network\.model must be"):
        compose(tmp_path, "policy=chunk_hub")


class TestWhatCannotBeBuilt:
    @pytest.mark.parametrize(
        ("backbone", "words"),
        [
            (functools.partial(ViT, image_size=30), "image_size must be a multiple of patch"),
            (functools.partial(ViT, num_layers=0), "num_layers must be 1 or more"),
            (functools.partial(ViT, channels=10), "dim must be a multiple of num_heads"),
            (
                pretrained(functools.partial(EfficientNetLite0, stages=8)),
                r"stages must lie in \[1, 7\]",
            ),
            (functools.partial(Pretrained, network=Peephole, image_size=0), "image_size must be 1"),
        ],
    )
    def test_sizes(self, backbone: Make, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            encoder(backbone)

    def test_channels_beside_another_backbone(self) -> None:
        with pytest.raises(ValueError, match="channels=null"):
            encoder(ViT, channels=(8, 16))

    def test_drawings_into_a_network_that_begins_otherwise(self) -> None:
        backbone = functools.partial(Pretrained, network=Peephole, frozen=False)
        with pytest.raises(ValueError, match="early cannot enter Peephole"):
            encoder(backbone, early=EARLY)

    def test_a_model_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match=r"nowhere': give a hub id .* or a folder with"):
            HubNetwork(str(tmp_path / "nowhere"))

    def test_pickled_weights(self, tmp_path: Path) -> None:
        path = folder(tmp_path, "vit")
        weights = load_file(path / "model.safetensors")
        (path / "model.safetensors").unlink()
        torch.save(weights, path / "pytorch_model.bin")
        with pytest.raises(OSError, match="pickled weights are not read"):
            HubNetwork(str(path))

    def test_a_model_without_patches(self, tmp_path: Path) -> None:
        config = transformers.SwinConfig(
            image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
        )
        transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="SwinModel gives 16 tokens for 8 x 8 patches"):
            Pretrained(network=functools.partial(HubNetwork, str(tmp_path)))

    def test_a_package_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
        with pytest.raises(ImportError, match=r"'no_such_package': pip install .*\[vision\]"):
            EfficientNetLite0()

    def test_a_file_that_is_not_the_known_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(efficientnet, "SHA256", "0" * 64)
        with pytest.raises(OSError, match="is not the file that this was written for"):
            EfficientNetLite0()
