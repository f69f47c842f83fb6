"""Alerts start the workflow `retrain` on GitHub, which a server on this machine plays."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr, ValidationError

from src.mlops.serving.drift_app import create_app
from src.mlops.serving.retraining import WORKFLOW
from src.mlops.serving.settings import DriftSettings
from tests.helpers.github_double import GitHub
from tests.helpers.service import ADMIN, assert_problem, sample


@pytest.fixture
def github() -> Iterator[GitHub]:
    with GitHub.running() as server:
        yield server


@pytest.fixture
def settings(github: GitHub, tmp_path: Path) -> DriftSettings:
    return DriftSettings(
        log_url=str(tmp_path),
        token=SecretStr("secret"),
        github_repository="owner/signs",
        github_token=SecretStr("github_pat_1\n"),
        github_api=f"http://127.0.0.1:{github.server_port}",
    )


@pytest.fixture
def client(settings: DriftSettings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), headers=ADMIN) as client:
        yield client


def notification(*alerts: str, **more: Any) -> dict[str, Any]:
    """Returns what Alertmanager 0.28 sends about alerts, `NAME` or `NAME resolved`."""
    told = [
        {
            "status": "resolved" if alert.endswith(" resolved") else "firing",
            "labels": {"alertname": alert.split()[0], "severity": "warning", "kind": "camera"},
            "annotations": {"summary": "The last drift report found drift of the kind camera."},
            "startsAt": "2026-11-30T12:00:00Z",
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://prometheus:9090/graph",
            "fingerprint": "c1a6f2f4d2b3d2a1",
        }
        for alert in alerts
    ]
    return {"version": "4", "groupKey": "{}:{}", "truncatedAlerts": 0, "receiver": "retraining", "alerts": told} | more


def counted(outcome: str) -> float:
    return sample("mlops_retrainings_total", outcome=outcome)


def test_an_alert_starts_the_workflow(client: TestClient, github: GitHub) -> None:
    before = counted("started")
    answer = client.post("/alerts", json=notification("DriftFound", "ConfidenceDropped", "DriftFound"))
    assert (answer.status_code, answer.json()) == (
        200,
        {"retraining": "started", "alerts": ["ConfidenceDropped", "DriftFound"]},
    )
    assert github.dispatched == [{"ref": "main", "inputs": {"reason": "ConfidenceDropped, DriftFound"}}]
    (_, listed, _), (_, started, token) = github.asked
    assert started == f"/repos/owner/signs/actions/workflows/{WORKFLOW}/dispatches"
    assert token == "Bearer github_pat_1"
    assert re.fullmatch(
        rf"/repos/owner/signs/actions/workflows/{WORKFLOW}/runs\?event=workflow_dispatch"
        r"&created=%3E%3D20[\d-]+T\d\d%3A\d\d%3A\d\dZ&per_page=1",
        listed,
    )
    assert counted("started") == before + 1
    assert 'mlops_retrainings_total{outcome="started"}' in client.get("/metrics").text


@pytest.mark.parametrize("alerts", [[], ["DriftFound resolved"]])
def test_resolved_alerts_start_nothing(client: TestClient, github: GitHub, alerts: list[str]) -> None:
    answer = client.post("/alerts", json=notification(*alerts, status="resolved"))
    assert answer.json() == {"retraining": "resolved", "alerts": []}
    assert github.asked == []


def test_only_alerts_that_fire_are_a_reason(client: TestClient, github: GitHub) -> None:
    client.post("/alerts", json=notification("DriftFound resolved", "UnknownShareHigh"))
    assert github.dispatched[0]["inputs"] == {"reason": "UnknownShareHigh"}


class TestOnlyOne:
    def test_a_second_alert_is_known_before_github_lists_the_run(self, client: TestClient, github: GitHub) -> None:
        github.shows_runs = False
        outcomes = [client.post("/alerts", json=notification("DriftFound")).json()["retraining"] for _ in range(3)]
        assert outcomes == ["started", "recent", "recent"]
        assert len(github.dispatched) == 1

    def test_after_a_restart(self, settings: DriftSettings, github: GitHub) -> None:
        for expected in ("started", "recent"):
            with TestClient(create_app(settings), headers=ADMIN) as client:
                assert client.post("/alerts", json=notification("DriftFound")).json()["retraining"] == expected
        assert len(github.dispatched) == 1

    def test_alerts_at_the_same_time(self, client: TestClient, github: GitHub) -> None:
        names = ["DriftFound", "ConfidenceDropped", "UnknownShareHigh", "DriftFound"]
        threads = [
            threading.Thread(target=client.post, args=("/alerts",), kwargs={"json": notification(name)})
            for name in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(github.dispatched) == 1

    def test_a_start_whose_answer_is_lost_is_not_repeated(self, client: TestClient, github: GitHub) -> None:
        github.status["POST"] = None
        assert_problem(client.post("/alerts", json=notification("DriftFound")), 503, "Alertmanager tries again")
        assert client.post("/alerts", json=notification("DriftFound")).json()["retraining"] == "recent"
        assert len(github.dispatched) == 1

    def test_without_a_pause(self, settings: DriftSettings, github: GitHub) -> None:
        github.shows_runs = False
        with TestClient(create_app(settings.model_copy(update={"retrain_hours": 0})), headers=ADMIN) as client:
            for _ in range(2):
                client.post("/alerts", json=notification("DriftFound"))
        assert len(github.dispatched) == 2


class TestGitHubFails:
    @pytest.mark.parametrize("step", ["GET", "POST"])
    @pytest.mark.parametrize("status", [500, 502, 503, 429])
    def test_down(self, client: TestClient, github: GitHub, step: str, status: int) -> None:
        before = counted("unreachable")
        github.status[step] = status
        assert_problem(client.post("/alerts", json=notification("DriftFound")), 503, f"status {status}")
        assert counted("unreachable") == before + 1
        github.status.clear()
        assert client.post("/alerts", json=notification("DriftFound")).json()["retraining"] == "started"

    @pytest.mark.parametrize("step", ["GET", "POST"])
    @pytest.mark.parametrize("status", [401, 403, 404, 422])
    def test_the_token_is_refused(self, client: TestClient, github: GitHub, step: str, status: int) -> None:
        before = counted("refused")
        github.status[step] = status
        answer = client.post("/alerts", json=notification("DriftFound"))
        assert_problem(answer, 424, f"with status {status}. Check MLOPS_DRIFT_GITHUB_REPOSITORY")
        assert "github_pat_1" not in answer.text
        assert github.dispatched == []
        assert counted("refused") == before + 1

    def test_a_redirect_does_not_get_the_token(self, client: TestClient, github: GitHub) -> None:
        for step in ("GET", "POST"):
            github.status = {step: 307}
            assert_problem(client.post("/alerts", json=notification("DriftFound")), 424, "with status 307")
        assert not [path for _, path, _ in github.asked if "elsewhere" in path]

    @pytest.mark.parametrize("listed", [b"", b"{}", b"[]", b"<html>", b'{"total_count": null}', b"\xff"])
    def test_an_answer_that_is_no_list_of_runs(self, client: TestClient, github: GitHub, listed: bytes) -> None:
        github.listed = listed
        assert_problem(client.post("/alerts", json=notification("DriftFound")), 503, "not a list of runs")
        assert github.dispatched == []

    def test_no_connection(self, settings: DriftSettings) -> None:
        gone = settings.model_copy(update={"github_api": "http://127.0.0.1:1"})
        with TestClient(create_app(gone), headers=ADMIN) as client:
            assert_problem(client.post("/alerts", json=notification("DriftFound")), 503, "Connection refused")


def test_without_a_repository_nothing_is_started(settings: DriftSettings, github: GitHub) -> None:
    off = settings.model_copy(update={"github_repository": None, "github_token": None})
    with TestClient(create_app(off), headers=ADMIN) as client:
        assert client.post("/alerts", json=notification("DriftFound")).json()["retraining"] == "off"
    assert github.asked == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "version: Field required"),
        ([], "The request is not valid"),
        (notification("DriftFound", version="3"), "version: Input should be '4'"),
        (notification("DriftFound", alerts={}), "alerts: Input should be a valid list"),
        (notification("DriftFound", alerts=[{"status": "firing", "labels": {}}]), "alertname: Field required"),
        (notification("DriftFound", alerts=[{"status": "on", "labels": {"alertname": "A"}}]), "'firing' or 'resolved'"),
        (notification("$(id)"), "alertname: String should match pattern"),
        (notification("A" * 101), "alertname: String should match pattern"),
        (notification("DriftFound", alerts=[{"status": "firing", "labels": {"alertname": "A"}}] * 101), "at most 100"),
    ],
)
def test_an_invalid_notification(body: Any, message: str, client: TestClient, github: GitHub) -> None:
    assert_problem(client.post("/alerts", json=body), 422, message)
    assert github.asked == []


def test_a_notification_that_is_too_large(client: TestClient, github: GitHub) -> None:
    assert_problem(client.post("/alerts", json=notification("DriftFound", groupKey="x" * 70_000)), 413, "65,536 bytes")
    assert_problem(
        client.post("/alerts", content=b"{", headers={"Content-Type": "application/json"}), 422, "JSON decode error"
    )
    assert github.asked == []


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Bearer github_pat_1", "Basic secret"])
def test_a_forged_notification(given: str | None, settings: DriftSettings, github: GitHub) -> None:
    headers = {"Authorization": given} if given else {}
    with TestClient(create_app(settings), headers=headers) as client:
        assert_problem(client.post("/alerts", json=notification("DriftFound")), 401, "token is missing or wrong")
    assert github.asked == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"github_token": None}, "MLOPS_DRIFT_GITHUB_TOKEN belong together"),
        ({"github_repository": None}, "MLOPS_DRIFT_GITHUB_TOKEN belong together"),
        ({"github_repository": "owner/../other"}, "github_repository"),
        ({"github_repository": "owner"}, "github_repository"),
        ({"github_api": "http://api.github.com"}, "github_api"),
        ({"github_api": "https://api.github.com/"}, "github_api"),
        ({"github_api": "http://127.0.0.1:1@evil.example"}, "github_api"),
        ({"github_token": "\n"}, "github_token"),
        ({"retrain_hours": -1}, "retrain_hours"),
    ],
)
def test_settings(changed: dict[str, Any], message: str) -> None:
    given = {"log_url": "log", "token": "secret", "github_repository": "owner/signs", "github_token": "github_pat_1"}
    with pytest.raises(ValidationError, match=message) as caught:
        DriftSettings(**(given | changed))
    assert "github_pat_1" not in str(caught.value)
