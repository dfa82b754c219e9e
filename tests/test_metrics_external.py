import logging
from importlib import metadata
from pathlib import Path

import pytest
import torch

from onestep import metrics
from onestep.core.errors import InputError
from onestep.metrics import external

NAMES = [name for name, metric in metrics.METRICS.items() if metric.extra == "pyiqa"]
MODULE = """
def create_metric(name, device, as_loss):
    if name == "gone":
        raise OSError("no network")
    assert not as_loss
    return lambda image: image.mean(dim=(1, 2, 3))[:, None] * 10
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name on the path, with a licence in its metadata."""
    folder = tmp_path / "pyiqa-9.9.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: pyiqa\nVersion: 9.9\nLicense-Expression: Odd-1.0\n"
    )
    (tmp_path / "pyiqa.py").write_text(MODULE)
    monkeypatch.delitem(__import__("sys").modules, "pyiqa", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return folder / "METADATA"


def test_four_metrics_come_from_there():
    assert sorted(NAMES) == ["clip-iqa", "maniqa-koniq", "maniqa-pipal", "musiq"]


@pytest.mark.parametrize("name", NAMES)
def test_without_it_one_line_names_the_licence(name: str):
    try:
        metadata.version("pyiqa")
    except metadata.PackageNotFoundError:
        with pytest.raises(
            InputError, match=r"pip install pyiqa, if its licence \(PolyForm-Noncommercial"
        ) as caught:
            metrics.make(name)
        assert "\n" not in str(caught.value)
    else:
        pytest.skip("pyiqa is installed here")


def test_the_licence_is_shown_before_it_is_used(installed: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "onestep"):
        score = metrics.make("musiq")
    assert caplog.messages == ["musiq is computed by pyiqa 9.9, whose licence is Odd-1.0"]
    images = torch.stack([torch.full((3, 8, 8), value) for value in (0.25, 0.5)])
    assert score(images).tolist() == [2.5, 5.0]


def test_weights_that_cannot_be_had_are_one_line(installed: Path):
    with pytest.raises(InputError, match=r"pyiqa 9\.9 cannot compute 'gone' here: OSError: no network"):
        external.pyiqa_metric("musiq", "gone", torch.device("cpu"))


def test_a_library_that_does_not_import_is_one_line(installed: Path, tmp_path: Path):
    (tmp_path / "pyiqa.py").write_text("raise RuntimeError('operator does not exist\\nat all')")
    with pytest.raises(InputError, match="RuntimeError: operator does not exist at all"):
        metrics.make("musiq")


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ("License: Some words\n  and a second line\n", "Some words"),
        ("Classifier: License :: OSI Approved :: MIT License\n", "MIT License"),
        ("", "not declared: see its home page"),
    ],
)
def test_the_licence_is_read_wherever_it_is_declared(installed: Path, lines: str, wanted: str):
    installed.write_text(f"Metadata-Version: 2.1\nName: pyiqa\nVersion: 9.9\n{lines}")
    assert external.license_of("pyiqa") == wanted
