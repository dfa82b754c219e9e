"""``onestep convert``: the release file that it writes, and what is refused."""

import pytest

from command_line import last_line, records
from onestep import Upscaler, checkpoint
from onestep.cli import run
from onestep.core.errors import InputError

pytestmark = pytest.mark.usefixtures("workplace")


def test_convert_writes_a_release_file(monkeypatch, tmp_path, capsys, home):
    tensors, card = checkpoint.read(home / "tiny.safetensors")
    asked = []

    def adapter(path, name, options):
        asked.append((path.name, name, dict(options)))
        return tensors, card

    monkeypatch.setattr("onestep.convert.ADAPTERS", {"oftsr": adapter, "ctmsr": None})
    (tmp_path / "official.pt").write_bytes(b"x")
    words = ["convert", "official.pt", "--method", "oftsr", "-O", "task=div2k", "--json"]
    assert run([*words, "-o", "out/mine.safetensors"]) == 0
    assert asked == [("official.pt", "mine", {"task": "div2k"})]
    assert records(capsys)[0]["card"]["method"] == "oftsr"
    assert Upscaler.load("out/mine.safetensors").name == "mine"


FACTS = ["-O", "kind=student", "-O", "sigma=0.1", "-O", "degradation=bicubic", "-O", "scale=4"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["absent.pt", "--method", "oftsr", "-o", "o.safetensors"], 1, "absent.pt: no such file"),
        (["x.pt", "--method", "s3diff", "-o", "o.safetensors"], 2, "add -O estimator"),
        (["x.pt", "--method", "magic", "-o", "o.safetensors"], 2, "no such method"),
        (["x.pt", "--method", "oftsr", "-o", "o.pth"], 2, "ends in .safetensors"),
        (["x.pt", "--method", "oftsr", "-o", "o.safetensors", "-O", "oops"], 2, "NAME=VALUE"),
        (["x.pt", "--method", "oftsr", "-o", "o.safetensors"], 2, "x.pt: its name does not tell"),
        (["x.pt", "--method", "oftsr", "-o", "o.safetensors", *FACTS], 1, "x.pt"),
    ],
)
def test_wrong_requests_to_convert(tmp_path, capsys, words, code, says):
    (tmp_path / "x.pt").write_bytes(b"no checkpoint")
    assert run(["convert", *words]) == code
    assert says in last_line(capsys)
    assert not (tmp_path / "o.safetensors").exists()


def test_a_release_file_where_none_can_be_written(monkeypatch, tmp_path, capsys, home):
    made = checkpoint.read(home / "tiny.safetensors")
    monkeypatch.setattr("onestep.convert.ADAPTERS", {"oftsr": lambda *_: made})
    (tmp_path / "plain").write_bytes(b"x")
    assert run(["convert", "plain", "--method", "oftsr", "-o", "plain/o.safetensors"]) == 2
    assert "cannot be written" in last_line(capsys)
    with pytest.raises(InputError, match="cannot be written"):
        checkpoint.write(tmp_path / "plain" / "o.safetensors", *made)
