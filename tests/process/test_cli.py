"""The command's arguments and exit statuses."""

from pathlib import Path

import pytest

from puerta import __version__
from puerta.cli import main
from tests.process.server import config


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "puerta.yaml"
    path.write_text(config(4000, tmp_path))
    return str(path)


def test_check(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", file, "-t"]) == 0
    assert capsys.readouterr().out == f"{file}: ok (1 route: one)\n"


def test_print(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", file, "--print-config"]) == 0
    assert "stop_timeout: 1s" in capsys.readouterr().out


def test_every_problem_on_a_line_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("nmae: x\nworkers: 0\nroutes: []\n")
    assert main(["-c", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{path}:") for line in lines)


def test_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["-c"], ["-c", "x", "--what"]])
def test_bad_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        main(argv)
    assert ending.value.code == 2
    assert "usage: puerta-master" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        main(["--version"])
    assert ending.value.code == 0
    assert capsys.readouterr().out == f"puerta {__version__}\n"
