"""The load test's verdict; that a good service passes is tested with the steps of a release."""

import typer
from typer.testing import CliRunner

from src.mlops import loadtest
from src.mlops.service_process import free_port


def test_a_service_that_does_not_answer_fails_it() -> None:
    app = typer.Typer()
    app.command()(loadtest.main)
    host = f"http://127.0.0.1:{free_port()}"
    result = CliRunner().invoke(app, ["--host", host, "--users", "1", "--seconds", "1"])
    assert result.exit_code == 1
    assert f"found failures, or no request at all, at {host}" in result.output
