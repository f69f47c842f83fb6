"""The help texts of `python -m src.mlops` and its commands."""

import sys

import pytest

from src.mlops.__main__ import COMMANDS, main


def printed(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["mlops", *words])
    monkeypatch.setattr("src.mlops.cli.start_logging", lambda: None)  # it would stay for all later tests
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    return capsys.readouterr().out


def test_all_commands_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    listed = printed(["--help"], monkeypatch, capsys)
    assert all(name in listed for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed([name, "--help"], monkeypatch, capsys)
    assert f"{name} [OPTIONS]" in text


@pytest.mark.parametrize("command", ["list", "register", "promote", "rollback", "pull"])
def test_registry_commands(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--override" in printed(["registry", command, "--help"], monkeypatch, capsys)
