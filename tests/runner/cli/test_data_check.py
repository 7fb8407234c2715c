"""`cplearn data check`: what is understood of a folder, in words."""

from pathlib import Path

import pytest

from pictures import fill
from support import run_cli


def test_a_messy_folder_is_told_in_a_table(tmp_path: Path) -> None:
    names = [f"{name}/{i}.png" for name in ("50% of_my & {cats}", "dogs\n") for i in range(5)]
    images = fill(tmp_path / "images", *names, "dogs\n/5.png")
    (images / "dogs\n/notes.txt").write_text("")
    (images / "dogs\n/6.PNG").write_bytes(b"no")
    (images / ".DS_Store").write_text("")
    (images / "dogs\n/7.png").write_bytes((images / "dogs\n/0.png").read_bytes())
    status, output = run_cli(tmp_path, "data", "check", str(images))
    assert status == 0, output
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert "train 10 0 2 4 to 6 8 x 8 10 RGB" in lines
    assert "test 2 0 2 1 8 x 8 2 RGB" in lines
    assert "files without a suffix of images 1 'dogs\\n/notes.txt'" in lines
    assert "hidden and system files 1 .DS_Store" in lines
    assert any(line.startswith("damaged images 1 'dogs\\n/6.PNG: its format is not known'") for line in lines)
    assert "Classes: 50% of_my & {cats}, 'dogs\\n'." in output
    assert "There is no test split" in output
    assert not list((tmp_path / "data").rglob("*.npy"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere"], "nowhere: no such folder"),
        (["check", "digits"], "digits is always the same"),
        (["check"], "write cplearn data check PATH"),
        (["digits", "images"], "write cplearn data check PATH"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, arguments: list[str], message: str) -> None:
    status, output = run_cli(tmp_path, "data", *arguments)
    assert (status, message in output) == (2, True), output
