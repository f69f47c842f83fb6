"""Tests that the load test fails for a bad service. The release tests cover a good one."""

from typer.testing import CliRunner

from src.mlops.errors import ServiceError
from src.mlops.io.service_process import free_port
from src.mlops.serving import loadtest


def test_the_load_test_fails_if_the_service_does_not_respond() -> None:
    host = f"http://127.0.0.1:{free_port()}"
    result = CliRunner().invoke(loadtest.app, ["--host", host, "--users", "1", "--seconds", "1"])
    assert isinstance(result.exception, ServiceError)
    assert host in str(result.exception)
