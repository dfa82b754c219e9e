from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from icc import GREY_GAMMA, LOOKUP, PROFILES, SRGB, SRGB_CURVE, curve, matrix, parametric, profile
from onestep.core.profile import Curve, computable, profile_of

COLORS = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def tensor(array):
    return torch.from_numpy(array / 255).movedim(-1, 0)[None]


def levels(image):
    return np.rint(image[0].movedim(0, -1).numpy() * 255)


def little_cms(array, source, target):
    image = ImageCms.profileToProfile(Image.fromarray(array), BytesIO(source), BytesIO(target))
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("name", PROFILES)
def test_colors_are_those_that_little_cms_finds_within_a_level(name):
    icc = PROFILES[name]
    found = profile_of(icc)
    assert np.abs(levels(found.to_srgb(tensor(COLORS))) - little_cms(COLORS, icc, SRGB)).max() <= 1
    if name != "linear":  # 8 bits are too coarse for a linear curve: Little CMS itself rounds differently
        back = little_cms(COLORS, SRGB, icc)
        assert np.abs(levels(found.from_srgb(tensor(COLORS))) - back).max() <= 1


def test_display_p3_red_is_more_than_srgb_can_show():
    p3 = profile_of(PROFILES["display p3"])
    red = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).view(1, 3, 1, 1)
    assert p3.to_srgb(red).flatten().tolist() == pytest.approx([1, 0, 0], abs=1e-3)
    # CSS Color 4: color(srgb 1 0 0) is color(display-p3 0.9175 0.2003 0.1386).
    assert p3.from_srgb(red).flatten().tolist() == pytest.approx([0.9175, 0.2003, 0.1386], abs=1e-3)


@pytest.mark.parametrize("name", PROFILES)
def test_what_both_can_show_comes_back(name):
    found = profile_of(PROFILES[name])
    inside = found.from_srgb(tensor(COLORS) * 0.9 + 0.05)
    there = found.to_srgb(inside)
    assert torch.allclose(found.from_srgb(there), inside, rtol=0, atol=2e-6)


def test_srgb_needs_no_conversion_in_whichever_digits():
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    table = curve(
        *(
            round(65535 * float(x))
            for x in Curve((2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045, 0, 0)).light(
                torch.linspace(0, 1, 1024)
            )
        )
    )
    for icc in (SRGB, made, matrix("srgb", table)):
        assert profile_of(icc) is None
        assert computable(icc)
    assert profile_of(None) is None


def test_grey_profiles_have_a_curve_alone():
    found = profile_of(GREY_GAMMA)
    grey = torch.rand(1, 1, 3, 4, dtype=torch.float64).expand(1, 3, 3, 4)
    light = grey ** (461 / 256)
    there = found.to_srgb(grey)
    assert torch.allclose(there[:, 0], there[:, 2])
    assert torch.allclose(((there[:, 0] + 0.055) / 1.055) ** 2.4, light[:, 0], atol=2e-3)
    assert torch.allclose(found.from_srgb(there), grey, atol=1e-6)


@given(st.floats(0.3, 4), st.floats(0.3, 1.5), st.floats(0, 0.4), st.floats(0.05, 0.6), st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_parametric_curves_are_undone(gamma, a, b, c, form):
    d = 0.05
    offset = (a * d + b) ** gamma - c * d
    tail = {0: (), 1: (a, b), 2: (a, b, 0.01), 3: (a, b, c, d), 4: (a, b, c, d, 0.0, max(offset, 0.0))}[form]
    if form == 3 or offset < 0:  # only a curve without a step can be undone
        tail = {3: (), 4: ()}.get(form, tail)
        form = 0 if not tail else form
    found = profile_of(matrix("adobe", parametric(form, gamma, *tail)))
    x = torch.linspace(0.06, 0.95, 50, dtype=torch.float64)
    light = found.curves[0].light(x)
    kept = (light > 1e-4) & (light < 1 - 1e-4)
    assert torch.allclose(found.curves[0].values(light)[kept], x[kept], atol=1e-3)


@pytest.mark.parametrize(
    "icc",
    [
        b"",
        b"profile",
        bytes(200),
        LOOKUP,
        profile(b"CMYK", {}),
        profile(b"RGB ", {}),
        matrix("p3", curve(65535, 0)),
        matrix("p3", parametric(0, -1.0)),
        matrix("p3", b"text" + bytes(20)),
        PROFILES["display p3"][:300],
    ],
)
def test_what_cannot_be_computed_is_left_alone(icc):
    assert profile_of(icc) is None
    assert not computable(icc)


def test_the_curve_of_srgb_is_that_of_the_standard():
    found = profile_of(matrix("p3", SRGB_CURVE)).curves[0]
    x = torch.tensor([0, 0.02, 0.04045, 0.5, 1], dtype=torch.float64)
    assert found.light(x).tolist() == pytest.approx([0, 0.02 / 12.92, 0.0031308, 0.2140411, 1], abs=1e-5)
