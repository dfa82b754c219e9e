"""What S3Diff keeps in memory of a base that is not part of its file: half of it, and nothing changes."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from onestep.core.picture import as_picture
from onestep.core.synthetic import synthetic
from onestep.methods.s3diff import S3diff, S3diffConfig
from onestep.networks.diffusion_prior import DiffusionPrior
from onestep.upscaler import Upscaler
from prior_parts import plain_folder, shaken
from s3diff_parts import BAD, ESTIMATOR, GOOD


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3diff:
    """On the folder of a tiny base, with adapters and gates that act."""
    monkeypatch.setenv("ONESTEP_HOME", str(tmp_path))
    base = plain_folder(tmp_path / "tiny-base")
    torch.manual_seed(0)
    config = S3diffConfig(str(base), estimator=ESTIMATOR, rank_unet=4, rank_vae=3, prompt=GOOD, negative=BAD)
    made = config.build().eval()
    shaken(made.trained(), 0.08)
    return made.requires_grad_(False)


def picture(model: S3diff, dtype: str, gates: str = "live") -> np.ndarray:
    seen = as_picture(synthetic(8, torch.Generator().manual_seed(4)))
    return Upscaler(model, device="cpu", dtype=dtype)(seen, gates=gates).array


def matrices(model: S3diff) -> dict[torch.dtype, int]:
    """Numbers in matrices of U-Net and VAE, by type."""
    found: dict[torch.dtype, int] = {}
    for parameter in (*model.prior.vae.parameters(), *model.prior.unet.parameters()):
        if parameter.ndim > 1:
            found[parameter.dtype] = found.get(parameter.dtype, 0) + parameter.numel()
    return found


def test_half_of_the_base_is_kept_and_the_picture_is_the_same_bit_by_bit(
    model: S3diff, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patched:
        patched.setattr(DiffusionPrior, "hold", lambda *_: None)
        before = picture(model, "bfloat16")
        assert set(matrices(model)) == {torch.float32}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert np.array_equal(picture(model, "bfloat16"), before)
    trained = sum(p.numel() for p in model.prior.parameters_of("generator") if p.ndim > 1)
    assert matrices(model)[torch.float32] == trained
    assert matrices(model)[torch.bfloat16] > trained
    after = model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in state.items()), "what ships is exact"


def test_float32_afterwards_is_close_and_folding_still_is_live(model: S3diff):
    exact = picture(model, "float32")
    assert set(matrices(model)) == {torch.float32}
    low = picture(model, "bfloat16", "folded")
    assert model.unet_gating.folded
    assert np.abs(low - exact).mean() < 0.05
    live, folded = (picture(model, "float32", gates) for gates in ("live", "folded"))
    assert np.abs(live - folded).max() < 1e-4
    assert np.abs(live - exact).mean() < 0.02, "the base was rounded once, to bfloat16"
    assert set(matrices(model)) == {torch.float32}


def test_a_model_that_is_trained_keeps_its_base(model: S3diff):
    model.gates.requires_grad_(True)
    picture(model, "bfloat16")
    assert set(matrices(model)) == {torch.float32}
    model.requires_grad_(False)
    picture(model, "bfloat16")
    model.gates.requires_grad_(True)
    lr = torch.zeros(1, 3, 16, 16)
    scores = torch.zeros(1, 2)
    noise = torch.zeros(model.noise_shape(torch.Size((1, 3, 4, 4))))
    model.restore(lr, noise, model.matrices(scores), model.embedded()[:1]).mean().backward()
    assert set(matrices(model)) == {torch.float32}
    assert model.gates.unet.fuse_mlp.weight.grad is not None
