from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onestep import hub, metrics
from onestep.core.errors import InputError
from onestep.metrics import clip_iqa
from seeded import picture

SIDE = 32


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights with a tiny CLIP in it, one token per letter."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("weights")
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])
    tokenizer.save_pretrained(folder / "clip-vit-base-patch16")
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=size
        | {"vocab_size": len(words), "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1},
        vision_config=size | {"image_size": SIDE, "patch_size": 8},
        projection_dim=12,
    )
    transformers.CLIPModel(config).save_pretrained(folder / "clip-vit-base-patch16")
    return folder


@pytest.fixture
def score(house: Path, monkeypatch: pytest.MonkeyPatch) -> metrics.Measure:
    monkeypatch.setenv(hub.HOME_VARIABLE, str(house))
    return metrics.make("clip-iqa-vit-b-16")


def test_one_window_scores_what_the_whole_model_says(score: metrics.Measure, house: Path):
    """The same picture and texts through CLIPModel itself, prepared by the CLIP image processor."""
    transformers = pytest.importorskip("transformers")
    model = transformers.CLIPModel.from_pretrained(house / "clip-vit-base-patch16").eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(house / "clip-vit-base-patch16")
    image = picture(SIDE)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
    tokens = tokenizer(["Good photo.", "Bad photo."], padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(pixel_values=(image - mean) / deviation, **tokens).logits_per_image
    assert score(image).tolist() == pytest.approx([logits.softmax(dim=1)[0, 0].item()], abs=1e-6)


def test_the_score_is_the_mean_over_windows(score: metrics.Measure):
    image = picture(2 * SIDE)
    parts = [image[..., top : top + SIDE, left : left + SIDE] for top in (0, SIDE) for left in (0, SIDE)]
    assert score(image).item() == pytest.approx(score(torch.cat(parts)).mean().item(), abs=1e-6)


def test_scores_of_a_batch_are_probabilities(score: metrics.Measure):
    found = score(torch.cat([picture(40), picture(40, 1)]))
    assert found.shape == (2,)
    assert ((found > 0) & (found < 1)).all()


@given(st.integers(1, 90), st.integers(1, 90))
def test_windows_cover_every_pixel_and_are_few(height: int, width: int):
    places = torch.arange(height * width).view(1, height, width).expand(3, -1, -1).float()
    found = list(clip_iqa.windows(places, SIDE))
    assert all(window.shape == (3, SIDE, SIDE) for window in found)
    if min(height, width) >= SIDE:
        seen = torch.cat([window[0].flatten() for window in found]).unique()
        assert len(seen) == height * width
        assert len(found) == -(-height // SIDE) * -(-width // SIDE)


def test_without_files_it_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"hf download openai/clip-vit-base-patch16") as caught:
        metrics.make("clip-iqa-vit-b-16")
    assert "\n" not in str(caught.value)


def test_without_transformers_it_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'onestep-sr\[diffusion\]'"):
        metrics.make("clip-iqa-vit-b-16")
