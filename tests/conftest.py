"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def development_data() -> Path:
    """The folder of development pictures and metric weights that is not part of the repository.

    ``ONESTEP_TEST_DATA``, else ``../shared/data`` beside the checkout; the test is skipped without it.
    """
    named = os.environ.get("ONESTEP_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("development data not found: set ONESTEP_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights with a student ``tiny`` and its ``tiny-teacher``, whose knobs all show."""
    import torch

    from onestep import checkpoint
    from onestep.core.config import to_dict
    from onestep.methods.oftsr import StudentConfig, TeacherConfig
    from onestep.networks.compact import CompactConfig

    folder = tmp_path_factory.mktemp("weights")
    network = CompactConfig(width=8, trunk=1, head=1, time_width=8)
    for name, method, config, defaults in (
        ("tiny", "oftsr", StudentConfig(network), {"realism": 0.5}),
        ("tiny-teacher", "oftsr-teacher", TeacherConfig(network), {"evaluations": 2}),
    ):
        torch.manual_seed(0)
        model = config.build()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.06)
        card = checkpoint.Card(
            name=name,
            method=method,
            config=to_dict(config),
            traits=to_dict(model.traits),
            step=7,
            license="CC0-1.0",
            recipe=None,
            version="0.1.0",
            scores={"set": {"psnr-y": 30.5}},
            limits=["It is tiny."],
            attributions=["Nobody."],
            defaults=defaults,
        )
        checkpoint.write(folder / f"{name}.safetensors", model.state_dict(), card)
    return folder


@pytest.fixture
def home(tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``ONESTEP_HOME`` with the tiny models alone, and no way to the network."""
    from onestep import hub

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setenv(hub.HOME_VARIABLE, str(tiny_home))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return tiny_home


@pytest.fixture
def workplace(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that commands run in, with the tiny models at home."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
