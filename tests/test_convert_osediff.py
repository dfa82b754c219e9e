"""Official files of OSEDiff: both layouts become the same release file; what is foreign is one line."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from onestep import checkpoint, hub
from onestep.convert import convert_file
from onestep.convert.osediff import factors
from onestep.core.errors import InputError, UsageError
from onestep.core.picture import as_picture
from onestep.core.synthetic import synthetic
from onestep.methods import build
from onestep.methods.osediff import Osediff, OsediffConfig
from onestep.networks.adapters import change
from onestep.upscaler import Upscaler
from prior_parts import plain_folder, shaken


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_folder(tmp_path_factory.mktemp("bases") / "tiny-base")


@pytest.fixture(autouse=True)
def home(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hub.HOME_VARIABLE, str(base.parent))


@pytest.fixture(scope="module")
def trained(base: Path) -> Osediff:
    model = OsediffConfig(base=str(base)).build().eval()
    shaken(model.prior.parameters_of("generator"))
    return model


def official(model: Osediff) -> dict:
    """As the authors' code saves: lists with duplicates for the VAE, adapters and the first convolution."""
    state = model.state_dict()
    parts = {part: f"prior.{part}." for part in ("unet", "vae")}
    targets = model.prior.unet_adapters.targets
    return {
        "vae_lora_encoder_modules": model.prior.vae_adapters.targets["encoder"] * 2,
        "unet_lora_encoder_modules": targets["encoder"],
        "unet_lora_decoder_modules": targets["decoder"],
        "unet_lora_others_modules": targets["others"],
        "rank_unet": 4,
        "rank_vae": 4,
        **{
            f"state_dict_{part}": {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
            for part, start in parts.items()
        },
    }


def merged(base: Path, model: Osediff) -> dict:
    """As the other layout has it: plain networks of diffusers with the sums."""
    plain = OsediffConfig(base=str(base)).build()
    plain.load_state_dict(model.state_dict())
    plain.prior.settle("generator")
    return {
        part: {
            name.replace(".base_layer", ""): tensor
            for name, tensor in getattr(plain.prior, part).state_dict().items()
            if "lora_" not in name and ".copies." not in name
        }
        for part in ("unet", "vae")
    }


def pixels(model: Osediff) -> np.ndarray:
    picture = as_picture(synthetic(24, torch.Generator().manual_seed(3)))
    return Upscaler(model, device="cpu", dtype="float32")(picture, merge=False, posterior="mean").array


def converted(content: object, tmp_path: Path, options: dict[str, str]) -> Osediff:
    torch.save(content, tmp_path / "osediff.pkl")
    out = tmp_path / "osediff.safetensors"
    convert_file(tmp_path / "osediff.pkl", "osediff", out, options)
    tensors, card = checkpoint.read(out)
    assert card.method == "osediff"
    assert card.config["base"] == "tiny-base"
    assert "Needs its base" in card.limits[0]
    model = build(card.method, card.config)
    checkpoint.load(model, tensors, out)
    assert isinstance(model, Osediff)
    return model.eval()


def test_adapters_are_converted_exactly(trained: Osediff, tmp_path: Path):
    model = converted(official(trained), tmp_path, {"base": "tiny-base"})
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert np.array_equal(pixels(model), pixels(trained))


def test_merged_networks_give_the_same_pictures(base: Path, trained: Osediff, tmp_path: Path):
    content = merged(base, trained)
    assert "conv_in.weight" in content["unet"]
    assert not any("base_layer" in name for part in content.values() for name in part)
    model = converted(content, tmp_path, {"base": "tiny-base"})
    assert float(np.abs(pixels(model) - pixels(trained)).max()) < 1e-4


@pytest.mark.parametrize("shape", [(12, 20), (12, 6, 3, 3), (3, 40)])
def test_factors_give_back_a_low_rank_change(shape: tuple[int, ...]):
    torch.manual_seed(0)
    a = torch.randn(4, *shape[1:])
    b = torch.randn(shape[0], 4, *[1] * (len(shape) - 2))
    whole = change(a, b)
    again = change(*factors(whole, 4))
    assert torch.allclose(again, whole, atol=1e-4)


def refused(content: object, tmp_path: Path, match: str, **options: str) -> None:
    torch.save(content, tmp_path / "osediff.pkl")
    with pytest.raises((InputError, UsageError), match=match) as caught:
        convert_file(
            tmp_path / "osediff.pkl", "osediff", tmp_path / "o.safetensors", {"base": "tiny-base", **options}
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o.safetensors").exists()


def test_a_foreign_file_is_one_line(tmp_path: Path):
    refused({"params_ema": {}}, tmp_path, "not an OSEDiff checkpoint: it holds params_ema")
    refused([1, 2], tmp_path, "not an OSEDiff checkpoint: it holds a list")


def test_a_file_that_runs_code_is_refused(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return (print, ("no",))

    refused({"state_dict_unet": Evil()}, tmp_path, "nothing was run")


def test_a_truncated_file_is_one_line(trained: Osediff, tmp_path: Path):
    torch.save(official(trained), tmp_path / "whole.pkl")
    (tmp_path / "osediff.pkl").write_bytes((tmp_path / "whole.pkl").read_bytes()[:5000])
    with pytest.raises(InputError, match="not a PyTorch checkpoint, or damaged") as caught:
        convert_file(tmp_path / "osediff.pkl", "osediff", tmp_path / "o.safetensors", {"base": "tiny-base"})
    assert "\n" not in str(caught.value)


def test_missing_and_odd_tensors_are_named(trained: Osediff, tmp_path: Path):
    content = official(trained)
    gone = next(iter(content["state_dict_vae"]))
    content["state_dict_vae"].pop(gone)
    refused(content, tmp_path, "but is missing")
    content = official(trained)
    content["unet_lora_others_modules"] = ["mid_block.nothing"]
    refused(content, tmp_path, "adapts other modules")


def test_the_wrong_base_of_merged_networks_is_noticed(base: Path, trained: Osediff, tmp_path: Path):
    content = merged(base, trained)
    content["vae"]["decoder.conv_in.weight"] = content["vae"]["decoder.conv_in.weight"] + 0.1
    refused(content, tmp_path, "is not that of tiny-base")
    content = merged(base, trained)
    refused(content, tmp_path, "with a change of rank 2", rank="2")


def test_a_rank_of_the_file_is_taken_over(base: Path, tmp_path: Path):
    model = OsediffConfig(base=str(base), rank_unet=2, rank_vae=2).build().eval()
    shaken(model.prior.parameters_of("generator"))
    content = {**official(model), "rank_unet": 2, "rank_vae": 2}
    again = converted(content, tmp_path, {"base": "tiny-base"})
    assert again.config.rank_unet == 2
    assert {float(s) for layer in again.prior.unet_adapters.layers for s in layer.scaling.values()} == {4.0}
