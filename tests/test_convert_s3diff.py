"""Official files of S3Diff: every key and shape, the same pictures before and after, every refusal."""

from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from onestep import checkpoint, convert
from onestep.convert import s3diff
from onestep.core.errors import InputError, UsageError
from onestep.core.picture import as_picture
from onestep.core.synthetic import synthetic
from onestep.methods import build
from onestep.methods.s3diff import S3diffConfig
from onestep.upscaler import Upscaler
from prior_parts import plain_folder, shaken
from s3diff_parts import BAD, ESTIMATOR, GOOD, estimator

MLPS = {"de_mlp": ("0.weight", "0.bias"), "block_mlp": ("0.weight", "0.bias"), "fuse_mlp": ("weight", "bias")}


def official(model) -> dict:
    """The layout of section 4.6, written by the names of the official code."""
    layout = {
        "unet_lora_target_modules": ["to_k", "to_q"],
        "vae_lora_target_modules": "^encoder\\..*$",
        "rank_unet": model.config.rank_unet,
        "rank_vae": model.config.rank_vae,
        "w": torch.nn.Parameter(model.gates.w.clone(), requires_grad=False),
        "state_embeddings": {
            f"state_dict_{net}_block": {"weight": getattr(model.gates, net).block_embeddings.weight.detach()}
            for net in ("vae", "unet")
        },
    }
    for net in ("vae", "unet"):
        state = {name: p.detach() for name, p in getattr(model.prior, net).named_parameters()}
        kept = {k: v for k, v in state.items() if "lora" in k or (net == "unet" and k.startswith("conv_in."))}
        layout[f"state_dict_{net}"] = {k: v for k, v in kept.items() if "copies" not in k}
        for mlp in MLPS:
            layout[f"state_dict_{net}_{mlp}"] = dict(getattr(getattr(model.gates, net), mlp).state_dict())
    return layout


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return plain_folder(tmp_path_factory.mktemp("bases") / "tiny-base")


@pytest.fixture
def home(base, tmp_path, monkeypatch):
    """ONESTEP_HOME with the base, and de_net.pth beside it."""
    (tmp_path / "tiny-base").symlink_to(base)
    monkeypatch.setenv("ONESTEP_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    torch.save(estimator().state_dict(), "de_net.pth")
    adapter = partial(s3diff.from_official, network=ESTIMATOR)
    monkeypatch.setattr(convert, "ADAPTERS", {"s3diff": adapter})
    return tmp_path


@pytest.fixture
def model(base):
    """A generator on that base, as the official code would have trained it."""
    torch.manual_seed(0)
    config = S3diffConfig(str(base), estimator=ESTIMATOR, rank_unet=4, rank_vae=3)
    made = config.build().eval()
    shaken(made.trained(), 0.05)
    made.estimator.load_state_dict(estimator().state_dict())
    return made.requires_grad_(False)


OPTIONS = {"base": "tiny-base", "estimator": "de_net.pth"}


def test_a_converted_file_gives_the_same_picture(home, model):
    torch.save(official(model), "s3diff.pkl")
    card = convert.convert_file(home / "s3diff.pkl", "s3diff", home / "mine.safetensors", OPTIONS)
    assert (card.method, card.config["rank_unet"], card.config["rank_vae"]) == ("s3diff", 4, 3)
    torch.manual_seed(99)
    loaded = build("s3diff", checkpoint.read_card(home / "mine.safetensors").config)
    checkpoint.load(loaded, checkpoint.read(home / "mine.safetensors")[0], home)
    assert torch.equal(loaded.gates.w, model.gates.w)
    picture = as_picture(synthetic(8, torch.Generator().manual_seed(0)))
    first, second = (
        Upscaler(one, device="cpu", dtype="float32")(picture, prompt=GOOD, negative=BAD)
        for one in (model, loaded)
    )
    assert np.array_equal(first.array, second.array)


def test_the_published_layout_is_taken_whole(monkeypatch, tmp_path):
    """Every key and shape of section 4.6, on the device without numbers; the total is 34,475,184."""
    shape = S3diffConfig().outline()
    layout = official(shape)
    assert (len(layout["state_dict_unet"]), len(layout["state_dict_vae"])) == (516, 62)
    assert layout["state_dict_unet"]["down_blocks.0.attentions.0.proj_in.lora_A.default.weight"].shape == (
        32,
        320,
    )
    assert layout["state_dict_vae"]["encoder.conv_in.lora_A.vae_skip.weight"].shape == (16, 3, 3, 3)
    assert layout["state_dict_unet"]["conv_in.weight"].shape == (320, 4, 3, 3)
    assert layout["state_dict_vae_fuse_mlp"]["weight"].shape == (256, 320)
    assert layout["state_dict_unet_fuse_mlp"]["weight"].shape == (1024, 320)
    assert layout["state_embeddings"]["state_dict_unet_block"]["weight"].shape == (10, 64)
    named = s3diff._named(tmp_path, layout)
    assert sum(value.numel() for value in named.values()) == 34_475_184
    wanted = {name for name in shape.state_dict() if not name.startswith("estimator.")}
    assert set(named) == wanted


def without(layout, *keys):
    for key in keys[:-1]:
        layout = layout[key]
    del layout[keys[-1]]


SPOILT = {
    "no gates": (lambda f: without(f, "state_dict_unet_de_mlp"), "holds nothing for gates.unet.de_mlp"),
    "no w": (lambda f: without(f, "w"), "and not w"),
    "no rank": (lambda f: without(f, "rank_vae"), "rank_vae should be a number"),
    "another rank": (lambda f: f.update(rank_unet=8), "does not fit S3Diff's"),
    "too few": (lambda f: without(f, "state_dict_unet", "conv_in.bias"), "conv_in.bias should be"),
    "too many": (lambda f: f["state_dict_vae"].update(odd=torch.zeros(1)), "prior.vae.odd is one too many"),
    "no numbers": (lambda f: f.update(w=torch.full((64,), torch.nan)), "not finite"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_does_not_fit_is_refused_in_one_line(home, model, name):
    spoil, says = SPOILT[name]
    layout = official(model)
    spoil(layout)
    torch.save(layout, "s3diff.pkl")
    with pytest.raises(InputError) as caught:
        convert.convert_file(home / "s3diff.pkl", "s3diff", home / "mine.safetensors", OPTIONS)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (home / "mine.safetensors").exists()


def test_the_estimator_must_be_named_and_there(home, model):
    torch.save(official(model), "s3diff.pkl")
    for options, kind, says in (
        ({"base": "tiny-base"}, UsageError, "add -O estimator=de_net.pth"),
        ({**OPTIONS, "estimator": "none.pth"}, InputError, "none.pth: no such file"),
        ({**OPTIONS, "estimator": "s3diff.pkl"}, InputError, "s3diff.pkl: "),
        ({**OPTIONS, "odd": "1"}, UsageError, "odd"),
    ):
        with pytest.raises(kind, match=says):
            convert.convert_file(home / "s3diff.pkl", "s3diff", home / "mine.safetensors", options)


def test_a_pickle_that_asks_for_more_is_not_run(home):
    torch.save({"w": Odd()}, "s3diff.pkl")
    with pytest.raises(InputError, match="more than tensors and numbers"):
        convert.convert_file(home / "s3diff.pkl", "s3diff", home / "mine.safetensors", OPTIONS)


class Odd:
    """Something that is no plain data."""
