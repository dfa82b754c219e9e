"""Tiles of a latent: published offsets and weights, a partition of one, and no endless loop."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onestep.networks.latent_tiling import offsets, tiled, weight


@pytest.mark.parametrize(
    ("length", "expected"),
    [(96, [0]), (128, [0, 32]), (160, [0, 64]), (161, [0, 64, 65]), (256, [0, 64, 128, 160])],
)
def test_offsets_are_the_published_ones(length: int, expected: list[int]):
    assert offsets(length, 96, 32, even=False) == expected
    assert len(offsets(length, 96, 32)) == len(expected)


def test_weights_are_the_published_ones_up_to_their_half_element():
    """Section 5.2: rows are centred at tile / 2 there, columns at (tile - 1) / 2; ours at that in both."""
    across, down = weight(96), weight(96, shift=0.5)
    assert (float(across[0]), float(across[95]), float(across[47])) == pytest.approx(
        (1.92636e-5, 1.92636e-5, 3.984015), rel=1e-5
    )
    assert (float(down[0]), float(down[48]), float(down[95])) == pytest.approx(
        (1.48672e-5, 3.989423, 2.48925e-5), rel=1e-5
    )


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 400), tile=st.integers(1, 120), overlap=st.integers(0, 60))
def test_tiles_cover_a_side_and_end_with_it(length: int, tile: int, overlap: int):
    for even in (True, False):
        found = offsets(length, tile, overlap, even=even)
        side = min(tile, length)
        assert found[0] == 0
        assert found[-1] == length - side
        assert all(0 < b - a <= max(tile - overlap, 1) for a, b in pairwise(found))
        assert len(found) <= length


def test_even_tiles_share_at_least_the_overlap():
    assert offsets(161, 96, 32) == [0, 32, 65]
    assert offsets(161, 96, 32, even=False) == [0, 64, 65]


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(2, 40), width=st.integers(2, 40), tile=st.integers(4, 16), overlap=st.integers(0, 15)
)
def test_weights_are_a_partition_of_one(height: int, width: int, tile: int, overlap: int):
    """Constants come through unchanged; so does what depends on the element alone."""
    latent = torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(tiled(torch.ones_like, latent, tile, overlap), torch.ones_like(latent), atol=1e-5)
    assert torch.allclose(tiled(lambda z: 3 * z, latent, tile, overlap), 3 * latent, atol=1e-4)


def test_an_area_test_decides_whether_there_are_tiles():
    """64x128 latents (512x1024 pixels) have fewer elements than a tile of 96x96, and are run whole."""
    calls: list[tuple[int, ...]] = []

    def note(z):
        calls.append(tuple(z.shape[-2:]))
        return z

    tiled(note, torch.zeros(1, 1, 64, 128), 96, 32)
    assert calls == [(64, 128)]
    calls.clear()
    tiled(note, torch.zeros(1, 1, 96, 97), 96, 32)
    assert calls == [(96, 96), (96, 96)]


def test_a_short_side_does_not_loop_for_ever():
    """256x4096 pixels: a side of 32 latents is no longer than the overlap."""
    calls: list[tuple[int, ...]] = []

    def note(z):
        calls.append(tuple(z.shape[-2:]))
        return z

    out = tiled(note, torch.zeros(1, 1, 32, 512), 96, 32)
    assert out.shape == (1, 1, 32, 512)
    assert calls == [(32, 96)] * 8


def test_tiles_of_a_local_network_are_the_whole():
    """Away from tile borders a 3x3 network sees the same; the Gaussian leaves borders next to nothing."""
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 3, 3, padding=1)
    latent = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        whole, pieces = net(latent), tiled(net, latent, 24, 12)
    assert float((whole - pieces).abs().max()) < 5e-3
