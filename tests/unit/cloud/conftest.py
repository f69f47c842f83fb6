"""A double of `gcloud` that records its calls, and of the part of Google's API that is called without it."""

import base64
import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import requests.adapters
from google.oauth2.credentials import Credentials

from src.mlops.cloud.bootstrap import bootstrap
from tests.helpers import gcloud_double
from tests.helpers.gcloud_record import Double
from tests.helpers.google_iam import OWNER, DeniedError
from tests.helpers.tiny import quick_config


@pytest.fixture
def gcloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Double:
    if sys.platform == "win32":
        pytest.skip("the double needs Unix")
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "gcloud"
    program.touch(0o755)  # shutil.which() must find it; calls are answered in this process, which is faster

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = gcloud_double.main(command[1:], folder, str(options["input"]))
        if options["stdout"] is None:
            sys.stdout.write(out.getvalue())
            return subprocess.CompletedProcess(command, code, None, err.getvalue())
        return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())

    double = Double(folder)
    double.script()
    double.write({})
    monkeypatch.setattr(
        "src.mlops.cloud.gcloud.subprocess", SimpleNamespace(run=run, PIPE=subprocess.PIPE, CompletedProcess=None)
    )
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    monkeypatch.setattr(
        "src.mlops.cloud.identity.google",
        SimpleNamespace(
            auth=SimpleNamespace(
                default=lambda _: (Credentials(f"of-{double.state().get('account', OWNER)}"), None)  # type: ignore[no-untyped-call]
            )
        ),
    )
    original = requests.adapters.HTTPAdapter.send

    def send(
        adapter: requests.adapters.HTTPAdapter, request: requests.PreparedRequest, **options: Any
    ) -> requests.Response:
        """Answers requests of google-auth, which asks IAM Credentials for tokens."""
        if "://iamcredentials." not in str(request.url):
            return original(adapter, request, **options)
        account = str(request.headers["authorization"]).removeprefix("Bearer of-")
        target, _, method = str(request.url).rpartition("/")[2].partition(":")
        assert method == "generateIdToken", request.url
        response, state = requests.Response(), double.state()
        response.status_code, body = 200, json.loads(request.body or b"")
        try:
            token = gcloud_double.id_token(state, account, target.replace("%40", "@"), body["audience"])
            parts = (b'{"alg":"none"}', json.dumps({"exp": 2000000000, "token": token}).encode(), b"")
            answer = {"token": ".".join(base64.urlsafe_b64encode(part).decode() for part in parts)}
        except DeniedError as error:
            response.status_code, answer = 403, {"error": str(error)}
        double.write(state)
        response.raw = io.BytesIO(json.dumps(answer).encode())
        return response

    monkeypatch.setattr("requests.adapters.HTTPAdapter.send", send)
    return double


@pytest.fixture
def ready(gcloud: Double) -> Double:
    """Returns the double after a bootstrap and a build."""
    settings = quick_config(["cloud.tag=abc", "cloud.prediction_log=gs://my-project-gtsrb/prediction_log"]).cloud
    bootstrap(settings)
    state = gcloud.state()
    images = "europe-west4-docker.pkg.dev/my-project/gtsrb"
    state["images"] = {f"{images}/train:def": "sha256:other"}
    state["images"] |= {f"{images}/{kind}:abc": f"sha256:{kind}" for kind in ("api", "train", "drift")}
    gcloud.write(state)
    gcloud.forget()
    return gcloud
