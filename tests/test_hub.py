import hashlib
import io
import urllib.error
from pathlib import Path

import pytest

from onestep import hub
from onestep.core.errors import InputError, UsageError

CONTENT = b"sixteen byte file"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
URL = "https://example.org/one.bin"


def table(*mirrors: str) -> dict[str, hub.Weights]:
    copies = (hub.Copy("kind/one.bin", DIGEST, len(CONTENT), mirrors),)
    return {"one": hub.Weights("a test file", copies, "CC0-1.0", "https://example.org")}


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, a table of one file, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setenv(hub.HOME_VARIABLE, str(tmp_path))
    monkeypatch.setattr(hub, "FILES", table(URL))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return tmp_path


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes) -> list[str]:
    asked: list[str] = []

    def answer(request: object, timeout: float) -> io.BytesIO:
        assert timeout > 0
        asked.append(request.full_url)
        return io.BytesIO(content)

    monkeypatch.setattr("urllib.request.urlopen", answer)
    return asked


@pytest.mark.parametrize("place", ["kind/one.bin", "one.bin", "anything/one.bin"])
def test_a_local_file_is_found_by_path_by_name_and_one_folder_down(house: Path, place: str):
    assert hub.locate("one") is None
    (house / place).parent.mkdir(exist_ok=True)
    (house / place).write_bytes(CONTENT)
    assert hub.locate("one") == house / place
    assert hub.fetch("one") == house / place


def test_a_local_file_with_other_content_is_not_taken_for_it(house: Path):
    (house / "one.bin").write_bytes(CONTENT[::-1])
    assert hub.locate("one") is None
    with pytest.raises(InputError, match="content is not the expected one"):
        hub.fetch("one")


def test_download_lands_whole_under_its_path_and_happens_once(house: Path, monkeypatch: pytest.MonkeyPatch):
    asked, seen = serve(monkeypatch, CONTENT), []
    path = hub.fetch("one", progress=lambda done, total: seen.append((done, total)))
    assert path == house / "kind" / "one.bin"
    assert path.read_bytes() == CONTENT
    assert seen == [(len(CONTENT), len(CONTENT))]
    assert [p.name for p in path.parent.iterdir()] == ["one.bin"]
    hub.fetch("one")
    assert asked == [URL]


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"!", b""], ids=["cut", "longer", "empty"])
def test_a_download_with_a_wrong_hash_leaves_nothing_behind(house, monkeypatch, content: bytes):
    serve(monkeypatch, content)
    with pytest.raises(InputError, match=r"example\.org: content differs"):
        hub.fetch("one")
    assert [p for p in house.rglob("*") if p.is_file()] == []


def test_without_a_network_one_line_says_what_where_and_from_where(house: Path):
    with pytest.raises(InputError) as caught:
        hub.fetch("one")
    line = str(caught.value)
    assert "\n" not in line
    for part in ("a test file", str(house / "kind" / "one.bin"), URL, "ONESTEP_HOME", "no network in tests"):
        assert part in line


def test_a_file_without_mirrors_is_placed_by_hand(house: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "FILES", table())
    with pytest.raises(InputError, match=r"put it at .*one\.bin \(from https://example\.org\)"):
        hub.fetch("one")


def test_the_second_mirror_serves_when_the_first_fails(house: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hub, "FILES", table("https://broken.example/x", URL))

    def answer(request: object, timeout: float) -> io.BytesIO:
        if "broken" in request.full_url:
            raise TimeoutError("timed out")
        return io.BytesIO(CONTENT)

    monkeypatch.setattr("urllib.request.urlopen", answer)
    assert hub.fetch("one").read_bytes() == CONTENT


def test_hugging_face_mirrors_are_addressed_by_its_library(house: Path, monkeypatch: pytest.MonkeyPatch):
    asked = serve(monkeypatch, CONTENT)
    monkeypatch.setattr(hub, "FILES", table("hf://owner/repository/file.bin"))
    assert hub.fetch("one") == house / "kind" / "one.bin"
    assert asked == ["https://huggingface.co/owner/repository/resolve/main/file.bin"]


def test_an_unknown_name_is_a_usage_error(house: Path):
    with pytest.raises(UsageError, match="known are one"):
        hub.fetch("two")


def test_home_defaults_to_the_user_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv(hub.HOME_VARIABLE, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hub.home() == tmp_path / "onestep"


def test_the_table_is_well_formed():
    paths = [copy.path for weights in hub.FILES.values() for copy in weights.copies]
    assert len(set(paths)) == len(paths)
    for weights in hub.FILES.values():
        assert weights.license
        for copy in weights.copies:
            assert len(copy.sha256) == 64
            assert int(copy.sha256, 16) > 0
            assert copy.size > 0
            assert all(mirror.startswith(("https://", "hf://")) for mirror in copy.mirrors)


HAD = "lpips-squeeze-backbone lpips-squeeze-head lpips-alex-head niqe brisque-model brisque-range dists"


@pytest.mark.parametrize("name", [*HAD.split(), "squeezenet-onnx"])
def test_the_development_folder_works_as_home(development_data: Path, monkeypatch, name: str):
    monkeypatch.setenv(hub.HOME_VARIABLE, str(development_data / "metrics"))
    assert hub.locate(name) is not None
