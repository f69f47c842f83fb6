"""Checks all command lines with the real `gcloud`, which rejects wrong arguments even without a login."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.mlops import ROOT
from src.mlops.cloud import submit as submit_module
from src.mlops.cloud.bootstrap import bootstrap
from src.mlops.cloud.build import build
from src.mlops.cloud.deploy import deploy
from src.mlops.cloud.drift_job import run_drift_job
from src.mlops.cloud.gcloud import Gcloud
from src.mlops.cloud.jobs import Attempt, keep_first
from src.mlops.cloud.monitoring import monitor
from src.mlops.cloud.names import Names, render
from src.mlops.cloud.rollback import rollback
from src.mlops.cloud.submit import job_file, train
from src.mlops.cloud.teardown import teardown
from tests.helpers.gcloud_record import Double
from tests.helpers.storage_emulator import Cloud
from tests.helpers.tiny import quick_config

REAL = shutil.which("gcloud")
NOT_LOGGED_IN = "You do not currently have an active account selected"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(REAL is None, reason="gcloud is not installed"),
]
# Parses a file with the classes of gcloud, which report unknown fields.
CHECK = """
import json, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/third_party"]
from googlecloudsdk.api_lib.util import apis, messages as util
messages = apis.GetMessagesModule(sys.argv[2], sys.argv[3])
kind = messages
for name in sys.argv[4].split("."):
    kind = getattr(kind, name)
util.DictToMessageWithErrorCheck(json.load(sys.stdin), kind)
"""


def ask(arguments: list[str], folder: Path) -> str:
    """Returns the stderr of gcloud without an account."""
    environment = {**os.environ, "CLOUDSDK_CONFIG": str(folder), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    result = subprocess.run(
        [str(REAL), *arguments], capture_output=True, text=True, env=environment, check=False, timeout=120, input=""
    )
    return result.stderr


def test_every_command_is_valid(gcloud: Double, cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit_module, "fetch_model", lambda *_: None)
    settings = quick_config(
        [
            *("cloud.tag=0123456789ab", "cloud.github=owner/name", "cloud.github_id=11", "cloud.github_owner_id=22"),
            *("cloud.serve.public=true", "cloud.teardown.confirm=my-project"),
            "cloud.prediction_log=gs://my-project-gtsrb/prediction_log",
        ]
    ).cloud
    private = settings.model_copy(update={"serve": settings.serve.model_copy(update={"public": False})})
    previous = settings.model_copy(update={"serve": settings.serve.model_copy(update={"model": "previous"})})
    unscheduled = settings.model_copy(update={"drift": settings.drift.model_copy(update={"schedule": None})})
    untrusted = settings.model_copy(update={"github": None})
    for changed in (settings, settings, private, unscheduled, untrusted, settings):
        bootstrap(changed)
    build(settings)
    train(settings, tmp_path)
    gcloud.set_state(jobs=[{"name": "customJobs/78", "state": "JOB_STATE_RUNNING"}])
    keep_first(Gcloud(settings), [Attempt("customJobs/78", "JOB_STATE_RUNNING"), Attempt("customJobs/77", "")])
    for changed in (private, settings, settings.model_copy(update={"tag": "newest"})):
        deploy(changed, lambda *_: None, lambda *_: None)
    rollback(previous, lambda *_: None)
    rollback(settings, lambda *_: None)
    run_drift_job(settings)
    watched = settings.model_copy(
        update={"alert_email": "me@example.com", "serve": private.serve.model_copy(update={"metrics": True})}
    )
    for changed in (watched, watched.model_copy(update={"alert_email": "you@example.com"}), private):
        monitor(changed)
    teardown(settings)
    teardown(settings.model_copy(update={"teardown": settings.teardown.model_copy(update={"data": True})}))
    commands = [list(words) for words in dict.fromkeys(map(tuple, gcloud.arguments()))]
    assert len(commands) > 60
    # Commands that differ only in their values are checked once.
    forms = {tuple(word.split("=")[0] for word in words): words for words in commands}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        answers = list(pool.map(lambda words: ask(words, tmp_path / "config"), forms.values()))
    for words, said in zip(forms.values(), answers, strict=True):
        if words[:2] == ["auth", "list"]:
            assert "ERROR" not in said, said
        else:
            assert NOT_LOGGED_IN in said or "No credentialed account" in said, f"{' '.join(words)}: {said}"


def test_a_wrong_option_is_detected(tmp_path: Path) -> None:
    said = ask(["run", "services", "replace", "x.yaml", "--regionn=x"], tmp_path)
    assert NOT_LOGGED_IN not in said


def sdk() -> str:
    found = subprocess.run(
        [str(REAL), "info", "--format=value(installation.sdk_root)"], capture_output=True, text=True, check=True
    )
    return f"{found.stdout.strip()}/lib"


def check(content: object, *kind: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHECK, sdk(), *kind],
        input=json.dumps(content),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("replicas", [1, 4])
def test_jobs_match_the_schema_of_vertex_ai(replicas: int) -> None:
    names = Names(quick_config(["cloud.tag=abc", f"cloud.train.replicas={replicas}"]).cloud)
    job = yaml.safe_load(job_file(names, "gs://b/jobs/1", "image").read_text())
    kind = ("aiplatform", "v1", "GoogleCloudAiplatformV1CustomJobSpec")
    result = check(job, *kind)
    assert result.returncode == 0, result.stderr
    job["workerPoolSpecs"][0]["machineSpec"]["acceleratorTypo"] = "x"
    assert "acceleratorTypo" in check(job, *kind).stderr


@pytest.mark.usefixtures("cloud")
def test_the_services_match_the_schema_of_cloud_run(ready: Double) -> None:
    public = quick_config(["cloud.tag=abc", "cloud.serve.public=true"]).cloud
    bootstrap(public)
    deploy(public, lambda *_: None, lambda *_: None)
    paths = [words[3] for words in ready.arguments() if words[:3] == ["run", "services", "replace"]]
    placeholder = render("placeholder.yaml", public, service="gtsrb", revision="gtsrb-placeholder", account="x")
    assert paths
    for path in (*paths, placeholder):
        service = yaml.safe_load(Path(path).read_text())
        result = check(service, "run", "v1", "Service")
        assert result.returncode == 0, result.stderr
    service["spec"]["template"]["spec"]["containers"][0]["evn"] = []
    assert "evn" in check(service, "run", "v1", "Service").stderr


@pytest.mark.usefixtures("cloud")
def test_the_drift_job_matches_the_schema_of_cloud_run(ready: Double) -> None:
    gcloud = ready
    settings = quick_config(["cloud.tag=abc", "cloud.prediction_log=gs://my-project-gtsrb/prediction_log"]).cloud
    run_drift_job(settings)
    [path] = [words[3] for words in gcloud.arguments() if words[:3] == ["run", "jobs", "replace"]]
    job = yaml.safe_load(Path(path).read_text())
    result = check(job, "run", "v1", "Job")
    assert result.returncode == 0, result.stderr
    job["spec"]["template"]["spec"]["taskCont"] = 2
    assert "taskCont" in check(job, "run", "v1", "Job").stderr


def files(gcloud: Double, option: str) -> list[dict[str, Any]]:
    """Returns the content of all files that an option names."""
    words = [word for words in gcloud.arguments() for word in words if word.startswith(f"--{option}=")]
    return [yaml.safe_load(Path(word.partition("=")[2]).read_text()) for word in words]


@pytest.mark.usefixtures("cloud")
def test_cloud_monitoring_matches_the_schemas(ready: Double) -> None:
    log = "cloud.prediction_log=gs://my-project-gtsrb/prediction_log"
    settings = quick_config(
        ["cloud.tag=abc", log, "cloud.serve.metrics=true", "cloud.alert_email=me@example.com"]
    ).cloud
    deploy(settings, lambda *_: None, lambda *_: None)
    [service] = [words[3] for words in ready.arguments() if words[:3] == ["run", "services", "replace"]]
    assert check(yaml.safe_load(Path(service).read_text()), "run", "v1", "Service").returncode == 0
    monitor(settings)
    for option, kind in (
        ("channel-content-from-file", ("monitoring", "v3", "NotificationChannel")),
        ("policy-from-file", ("monitoring", "v3", "AlertPolicy")),
        ("config-from-file", ("monitoring", "v1", "Dashboard")),
    ):
        found = files(ready, option)
        assert found
        for content in found:
            result = check(content, *kind)
            assert result.returncode == 0, result.stderr
    policy = files(ready, "policy-from-file")[1]
    policy["conditions"][0]["conditionPrometheusQueryLanguage"]["unknownField"] = "up"
    assert "unknownField" in check(policy, "monitoring", "v3", "AlertPolicy").stderr
    policy["severity"] = "URGENT"
    assert check(policy, "monitoring", "v3", "AlertPolicy").returncode


def test_the_lifecycle_matches_the_schema_of_cloud_storage() -> None:
    builds = json.loads((ROOT / "cloud/lifecycle-builds.json").read_text())
    assert check(builds, "storage", "v1", "Bucket.LifecycleValue").returncode == 0
    rules = json.loads((ROOT / "cloud/lifecycle.json").read_text())
    assert check(rules, "storage", "v1", "Bucket.LifecycleValue").returncode == 0
    rules["rule"][0]["condition"]["olderThan"] = 1
    assert check(rules, "storage", "v1", "Bucket.LifecycleValue").returncode != 0
