"""Training runs: what they leave, and that stopping, splitting and resuming change nothing."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from onestep import checkpoint
from onestep.core.errors import InputError, UsageError
from onestep.recipe import CheckConfig
from onestep.train import DivergedError, StoppedError, train
from onestep.train.run_folder import RunFolder
from training_toy import ToyConfig, ToyModelConfig, build, same, toy

WIDE = ToyConfig(ToyModelConfig(width=5))


def last_state(folder):
    return checkpoint.load_state(sorted(Path(folder).glob("state-*.pt"))[-1])


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A run that was never disturbed."""
    folder = tmp_path_factory.mktemp("reference")
    train(toy(), folder)
    return folder


def test_a_run_leaves_what_it_promises(reference):
    names = {path.name for path in reference.iterdir()}
    assert names == {
        "recipe.json", "log.jsonl", "tensorboard", "release-00000006.safetensors",
        "state-00000004.pt", "state-00000006.pt",
    }  # fmt: skip
    lines = [json.loads(line) for line in (reference / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {
        "model/l2",
        "model/fool",
        "critic/score",
        "model/l1",
        "norm/critic",
        "lr/model",
        "seconds",
    } <= set(lines[0])
    assert lines[5]["lr/model"] == pytest.approx(1e-3)
    assert lines[5]["model/l1"] < lines[0]["model/l1"]
    assert any((reference / "tensorboard").iterdir())


def test_the_release_file_is_the_average_in_half_precision(reference):
    tensors, card = checkpoint.read(reference / "release-00000006.safetensors")
    state = last_state(reference)
    names = [name for name, _ in build(toy()).model.named_parameters()]
    for name, shadow in zip(names, state["ema"]["shadow"], strict=True):
        assert torch.equal(tensors[name], shadow.half().float())
        assert not torch.equal(shadow, state["objective"][f"model.{name}"])
    assert (card.name, card.method, card.step, card.license) == ("toy", "toy", 6, "CC0-1.0")
    assert card.config == {"width": 4}
    assert card.traits["scale"] == 2
    assert card.defaults == {"gain": 0.5}
    assert card.recipe["train"]["steps"] == 6


@pytest.mark.parametrize("workers", [0, 1])
def test_resumed_is_bit_identical_to_never_stopped(reference, tmp_path, workers):
    recipe = toy()
    recipe = replace(recipe, data=replace(recipe.data, workers=workers))
    for _ in range(2):
        assert train(recipe, tmp_path, max_minutes=0).is_file()
    train(recipe, tmp_path)
    assert same(last_state(tmp_path), last_state(reference))
    lines = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [1, 2, 3, 4, 5, 6]


def test_max_minutes_leaves_state_and_release_file(tmp_path):
    release = train(toy(), tmp_path, max_minutes=0)
    assert release == tmp_path / "release-00000001.safetensors"
    assert checkpoint.read_card(release).step == 1
    assert last_state(tmp_path)["step"] == 1


def test_a_killed_run_continues_from_its_last_state(reference, tmp_path):
    """First the whole group of processes is told to stop, as by a closed terminal; then -9 in a step."""
    code = f"""
import os, signal, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from training_toy import toy
from onestep.train import StoppedError, train
recipe, folder = toy(), Path({str(tmp_path)!r})
recipe = replace(recipe, data=replace(recipe.data, workers=1))
def stop(progress):
    if progress.step == 1:
        os.killpg(0, signal.SIGTERM)
    if progress.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
try:
    train(recipe, folder, progress=stop)
except StoppedError:
    assert (folder / "state-00000002.pt").is_file()
    train(recipe, folder, progress=stop)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, start_new_session=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert last_state(tmp_path)["step"] == 4
    train(toy(), tmp_path)
    assert same(last_state(tmp_path), last_state(reference))
    lines = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_saves(reference, tmp_path, number):
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]

    def stop(progress):
        if progress.step == 3:
            os.kill(os.getpid(), number)

    with pytest.raises(StoppedError, match="stopped at step 4"):
        train(toy(), tmp_path, progress=stop)
    assert last_state(tmp_path)["step"] == 4
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    train(toy(), tmp_path)
    assert same(last_state(tmp_path), last_state(reference))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_state(reference, tmp_path):
    with pytest.raises(DivergedError, match=r"step 4: model/l2 is nan") as caught:
        train(toy(ToyConfig(poison=4), save_every=3), tmp_path)
    assert "\n" not in str(caught.value)
    state = last_state(tmp_path)
    assert state["step"] == 3
    assert all(torch.isfinite(tensor).all() for tensor in state["objective"].values())


def test_only_the_last_two_states_are_kept(tmp_path):
    train(toy(save_every=1), tmp_path)
    assert [path.name for path in RunFolder(tmp_path).states()] == ["state-00000005.pt", "state-00000006.pt"]


def test_a_folder_of_another_recipe_is_refused(reference, tmp_path):
    train(toy(), tmp_path, max_minutes=0)
    other = toy(clip=0.5)
    with pytest.raises(UsageError, match=r"another recipe \(train\.clip was 1\.0, now 0\.5\)"):
        train(other, tmp_path, max_minutes=0)
    calmer = replace(toy(save_every=3, log_every=2), check=CheckConfig(every=0, images=1))
    train(calmer, tmp_path, max_minutes=0)
    (tmp_path / "recipe.json").unlink()
    assert train(other, tmp_path, max_minutes=0) == tmp_path / "release-00000003.safetensors"
    (tmp_path / "recipe.json").unlink()
    with pytest.raises(UsageError, match=r"does not fit the objective at model\.a\.weight"):
        train(toy(WIDE), tmp_path)


def test_init_starts_from_a_release_file(reference, tmp_path):
    release = reference / "release-00000006.safetensors"
    started = train(toy(steps=0), tmp_path / "a", init=release)
    assert same(checkpoint.read(started)[0], checkpoint.read(release)[0])
    with pytest.raises(InputError, match=r"a\.weight is"):
        train(toy(WIDE), tmp_path / "b", init=release)


def test_checks_score_held_out_pictures_and_go_into_the_card(tmp_path):
    recipe = toy()
    recipe = replace(recipe, check=replace(recipe.check, every=3))
    release = train(recipe, tmp_path)
    for step in (3, 6):
        scores = json.loads((tmp_path / f"check-{step:08d}.json").read_text())["scores"]
        assert set(scores) == {"bicubic", "gain=0", "gain=1"}
        assert scores["bicubic"]["psnr-y"] > 15
        assert 0 < scores["bicubic"]["ssim-y"] < 1
        assert scores["gain=0"]["psnr-y"] < scores["bicubic"]["psnr-y"]
        assert checkpoint.read_card(tmp_path / f"release-{step:08d}.safetensors").step == step
    assert checkpoint.read_card(release).scores == {"held-out": scores}
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["images"] == ["check/synthetic-0000", "check/synthetic-0001"]
    assert [event.step for event in events.Images("check/synthetic-0001")] == [3, 6]
    assert events.Images("check/synthetic-0001")[0].width == 4 * 32
    assert [event.step for event in events.Scalars("model/l2")] == [1, 2, 3, 4, 5, 6]


def test_checks_do_not_change_the_training(reference, tmp_path):
    recipe = toy()
    train(replace(recipe, check=replace(recipe.check, every=1)), tmp_path)
    assert same(last_state(tmp_path), last_state(reference))


def test_without_tensorboard_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    lines = []
    train(toy(), tmp_path, max_minutes=0, notice=lines.append)
    assert len(lines) == 1
    assert "pip install tensorboard" in lines[0]


def test_progress_counts_every_step(tmp_path):
    seen = []
    train(toy(), tmp_path, progress=seen.append)
    assert [(p.step, p.steps) for p in seen] == [(i, 6) for i in range(1, 7)]
    assert all(p.seconds > 0 and math.isfinite(p.losses["model/l2"]) for p in seen)


def test_the_documented_command_of_torchrun_leaves_our_options_to_us(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    words = ["-m", "--", "onestep", "train", "no-such-recipe", "--run", str(tmp_path / "run")]
    done = subprocess.run([*launch, *words], capture_output=True, text=True, timeout=120, check=False)
    assert "ambiguous" not in done.stderr
    assert "onestep: no-such-recipe: no such recipe" in done.stderr, done.stderr


def test_two_ranks_of_torchrun_are_one_process(reference, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from training_toy import toy
from onestep.train import train
train(toy(), Path({str(tmp_path / "run")!r}), device="cpu")
"""
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launch, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    ours, theirs = last_state(tmp_path / "run"), last_state(reference)
    for name, tensor in theirs["objective"].items():
        assert torch.allclose(ours["objective"][name], tensor, atol=1e-6), name
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 6
