"""The discriminator: shapes and counts of its heads, its loss in closed form, what learns, augmentation."""

import math

import pytest
import torch
from torch import nn

from onestep.core.errors import InputError, UsageError
from onestep.networks.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    Smoothing,
    SqueezeFeatures,
    augmented,
    map_head,
    vector_head,
)
from onestep.networks.lpips import Lpips


class Plain(nn.Module):
    """Features of the published sides that tell brightness alone."""

    def __init__(self, width=768):
        super().__init__()
        self.widths = (width,) * 3

    def forward(self, image):
        level, width = image.mean((1, 2, 3)), self.widths[0]
        maps = [level.reshape(-1, 1, 1, 1).expand(-1, width, 14, 14) for _ in range(2)]
        return [*maps, level[:, None].expand(-1, width)]


@pytest.fixture
def squeeze() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(SqueezeFeatures(Lpips("squeeze")))


def test_heads_of_the_published_features():
    """Section 4.4: logits of 3x3, 3x3 and 1, and 1,868,547 parameters."""
    net = Discriminator(Plain(), augment=False)
    assert sum(parameter.numel() for parameter in net.heads.parameters()) == 1_868_547
    assert [tuple(one.shape) for one in net(torch.rand(2, 3, 8, 8))] == [(2, 1, 3, 3), (2, 1, 3, 3), (2, 1)]


def test_smoothing_is_the_outer_product_and_keeps_a_constant_inside():
    line = torch.tensor([0.125, 0.375, 0.375, 0.125])
    impulse = torch.zeros(1, 2, 7, 7)
    impulse[0, 1, 3, 3] = 1
    out = Smoothing(2, 2)(impulse)
    assert out.shape == (1, 2, 8, 8)
    torch.testing.assert_close(out[0, 1, 2:6, 2:6], torch.outer(line, line))
    assert float(out[0, 0].abs().max()) == 0
    torch.testing.assert_close(Smoothing(1, 0)(torch.ones(1, 1, 9, 9)), torch.ones(1, 1, 6, 6))


@pytest.mark.parametrize("real", [True, False])
def test_the_loss_at_zero_logits(monkeypatch, squeeze, real):
    """Three times ln 2, whatever the target: item 14."""
    zeros = [torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3, 3), torch.zeros(2, 1)]
    monkeypatch.setattr(squeeze, "forward", lambda image: zeros)
    assert squeeze.loss(torch.zeros(1), real=real).item() == pytest.approx(3 * math.log(2), rel=1e-6)


def test_the_loss_is_smoothed_summed_over_heads_and_averaged_within(monkeypatch, squeeze):
    logits = [torch.tensor([[[[1.0, -2.0]]]]), torch.tensor([[[[0.5]]]]), torch.tensor([[3.0]])]
    monkeypatch.setattr(squeeze, "forward", lambda image: logits)

    def entropy(x, target):
        p = 1 / (1 + math.exp(-x))
        return -target * math.log(p) - (1 - target) * math.log(1 - p)

    for real, target in ((True, 0.8), (False, 0.0)):
        wanted = (entropy(1, target) + entropy(-2, target)) / 2 + entropy(0.5, target) + entropy(3, target)
        assert squeeze.loss(torch.zeros(1), real=real).item() == pytest.approx(wanted, rel=1e-5)


def test_heads_have_spectral_norm_one():
    torch.manual_seed(0)
    for head, image in ((map_head(6), torch.rand(1, 6, 14, 14)), (vector_head(6), torch.rand(1, 6))):
        head.train()
        for _ in range(60):
            head(image)
        for layer in head:
            if hasattr(layer, "weight"):
                largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item()
                assert largest == pytest.approx(1, abs=2e-2)


def test_features_are_frozen_and_heads_learn(squeeze):
    squeeze.train()
    assert not squeeze.features.training
    image = torch.rand(2, 3, 48, 48, requires_grad=True)
    squeeze.loss(image, real=True).backward()
    assert image.grad is not None
    assert float(image.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in squeeze.features.parameters())
    assert all(parameter.grad is not None for parameter in squeeze.heads.parameters())


def test_two_kinds_of_pictures_are_told_apart():
    """Thirty steps on bright against dark pictures: every head calls the bright ones truer."""
    torch.manual_seed(0)
    net = Discriminator(Plain(8), augment=False)
    optimizer = torch.optim.Adam(net.heads.parameters(), 1e-2)
    bright, dark = torch.rand(3, 3, 4, 4) + 0.5, -torch.rand(3, 3, 4, 4) - 0.5
    for _ in range(30):
        optimizer.zero_grad()
        (net.loss(bright, real=True) + net.loss(dark, real=False)).backward()
        optimizer.step()
    net.eval()
    for high, low in zip(net(bright), net(dark), strict=True):
        assert high.mean().item() > low.mean().item() + 0.5


def test_small_images_are_refused(squeeze):
    with pytest.raises(UsageError, match="at least 40 pixels"):
        squeeze(torch.rand(1, 3, 39, 64))
    assert [one.ndim for one in squeeze(torch.rand(1, 3, 40, 40))] == [4, 4, 2]


# augmentation


def test_augmentation_cuts_a_square_of_half_the_sides_at_most_and_shifts_an_eighth():
    torch.manual_seed(0)
    flat = torch.full((200, 3, 16, 16), 5.0)
    zero = (augmented(flat) == 0).all(1)
    shares = zero.float().mean((1, 2))
    most = 0.25 + 2 * 2 / 16
    assert 0 < float(shares.min()) < float(shares.max()) <= most
    assert float(shares.mean()) > 0.15


def test_augmentation_keeps_mean_brightness_in_its_range(monkeypatch):
    from onestep.networks import discriminator

    monkeypatch.setattr(discriminator, "_cut", lambda x: x)
    monkeypatch.setattr(discriminator, "_shifted", lambda x: x)
    torch.manual_seed(0)
    image = torch.rand(500, 3, 4, 4)
    changed = augmented(image)
    moved = (changed - image).mean((1, 2, 3))  # saturation and contrast keep the mean
    assert -0.5 <= float(moved.min()) < -0.45
    assert 0.45 < float(moved.max()) <= 0.5
    spread = (changed.std((1, 2, 3)) / image.std((1, 2, 3))).sort().values
    assert float(spread[5]) < 0.7
    assert float(spread[-5]) > 1.3


def test_augmentation_differs_from_image_to_image_and_passes_gradients():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 16, 16).repeat(2, 1, 1, 1).requires_grad_()
    out = augmented(image)
    assert not torch.equal(out[0], out[1])
    out.sum().backward()
    assert image.grad is not None
    assert bool(image.grad.isfinite().all())


# DINO


@pytest.fixture(scope="module")
def dino():
    from transformers import ViTConfig, ViTModel

    from onestep.networks.backbones import Dino

    torch.manual_seed(0)
    shape = ViTConfig(
        hidden_size=12, num_hidden_layers=12, num_attention_heads=2, intermediate_size=16, image_size=64
    )
    return Dino(ViTModel(shape, add_pooling_layer=False))


def test_dino_gives_two_maps_and_the_class_token(dino):
    found = dino(torch.rand(2, 3, 100, 90) * 2 - 1)
    assert [tuple(one.shape) for one in found] == [(2, 12, 4, 4), (2, 12, 4, 4), (2, 12)]
    assert dino.widths == (12, 12, 12)


def test_dino_takes_blocks_4_8_and_11_after_the_norm(dino):
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(1, 3, 1, 1)
    deviation = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
    vit = dino._model
    states, kept = vit.embeddings(((image + 1) / 2 - mean) / deviation), []
    for layer in vit.layers:
        states = layer(states)
        kept.append(vit.layernorm(states))
    maps = [kept[index][0, 1:].T.reshape(12, 4, 4) for index in (4, 8)]
    for one, wanted in zip(dino(image), [*maps, kept[11][0, 0]], strict=True):
        torch.testing.assert_close(one[0], wanted)


def test_a_discriminator_on_dino_trains_its_heads_alone(dino):
    net = Discriminator(dino)
    assert all(not parameter.requires_grad for parameter in net.features.parameters())
    assert all(parameter.requires_grad for parameter in net.heads.parameters())


def test_without_the_weights_of_dino_one_line_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("ONESTEP_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="DINO facebook/dino-vitb16 is not on this machine") as caught:
        DiscriminatorConfig("dino").build()
    assert "\n" not in str(caught.value)


def test_the_small_features_come_from_the_files_of_lpips(monkeypatch, development_data):
    monkeypatch.setenv("ONESTEP_HOME", str(development_data / "metrics"))
    net = DiscriminatorConfig("squeeze").build()
    assert [tuple(one.shape) for one in net(torch.rand(1, 3, 96, 96))][-1] == (1, 1)
