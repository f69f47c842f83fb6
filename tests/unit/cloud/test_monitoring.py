"""Metrics, alerts and a dashboard in Cloud Monitoring."""

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.mlops import ROOT
from src.mlops.cloud import promoted as promoted_module
from src.mlops.cloud.alert_policies import alert_policies, to_cloud
from src.mlops.cloud.bootstrap import bootstrap
from src.mlops.cloud.deploy import deploy
from src.mlops.cloud.monitoring import monitor
from src.mlops.cloud.names import Names
from src.mlops.cloud.rollback import rollback
from src.mlops.cloud.teardown import teardown
from src.mlops.config import CloudConfig
from src.mlops.errors import CloudError, ConfigError
from src.mlops.io.storage import Folder
from tests.helpers.gcloud_record import Double
from tests.helpers.google_monitoring import AGENT
from tests.helpers.programs import require
from tests.helpers.tiny import quick_config

METRICS, EMAIL = "serve.metrics=true", "alert_email=me@example.com"
LOG = "prediction_log=gs://my-project-gtsrb/prediction_log"
SPECIAL = yaml.safe_load((ROOT / "cloud/monitoring/alerts.yaml").read_text())
PERMISSIONS = [
    "logging.logMetrics.create", "logging.logMetrics.list", "monitoring.alertPolicies.create",
    "monitoring.alertPolicies.list", "monitoring.dashboards.create", "monitoring.dashboards.list",
    "monitoring.notificationChannels.create", "monitoring.notificationChannels.list",
    "monitoring.uptimeCheckConfigs.create", "monitoring.uptimeCheckConfigs.list",
    "resourcemanager.projects.get", "run.services.get", "run.services.setIamPolicy",
]  # fmt: skip


@cache
def cloud(*overrides: str) -> CloudConfig:
    return quick_config([f"cloud.{override}" for override in ("tag=abc", *overrides)]).cloud


def works(*_: object) -> None:
    """A smoke test that succeeds, and a comparison that finds no difference."""


def made(gcloud: Double) -> dict[str, list[dict[str, Any]]]:
    """Returns everything in Cloud Monitoring by kind, without what Google adds."""
    hidden = ("creationRecord", "etag")
    return {
        kind: [{key: value for key, value in one.items() if key not in hidden} for one in things]
        for kind, things in gcloud.state().get("monitoring", {}).items()
    }


def titles(gcloud: Double, kind: str) -> list[str]:
    return [str(one["displayName"]).removeprefix("gtsrb: ") for one in made(gcloud)[kind]]


def changes(gcloud: Double) -> list[str]:
    """Returns the calls that create, update or delete something in Cloud Monitoring."""
    wanted = re.compile(r"^(alpha )?(monitoring|logging) .*\b(create|update|delete)\b")
    return [call for call in gcloud.calls() if wanted.search(call)]


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(promoted_module, "open_storage", lambda _: Folder(tmp_path / "store"))


@pytest.fixture
def deployed(ready: Double) -> Double:
    """Returns the double after a deployment."""
    deploy(cloud(METRICS, LOG), works, works)
    ready.forget()
    return ready


class TestSidecar:
    @staticmethod
    def spec(gcloud: Double) -> dict[str, Any]:
        path = [words[3] for words in gcloud.arguments() if words[:3] == ["run", "services", "replace"]][-1]
        template: dict[str, Any] = yaml.safe_load(Path(path).read_text())["spec"]["template"]
        return template

    def test_is_off_by_default(self, ready: Double) -> None:
        deploy(cloud(), works, works)
        template = self.spec(ready)
        assert len(template["spec"]["containers"]) == 1
        assert "run.googleapis.com/container-dependencies" not in template["metadata"]["annotations"]
        assert template["metadata"]["annotations"]["run.googleapis.com/cpu-throttling"] == "true"
        assert "metrics_of" not in ready.state()

    def test_sends_the_metrics_of_the_port_of_the_service(self, ready: Double) -> None:
        deploy(cloud(METRICS, "serve.cpu_always=true"), works, works)
        template = self.spec(ready)
        assert template["metadata"]["annotations"]["run.googleapis.com/cpu-throttling"] == "false"
        service = template["spec"]["containers"][0]
        ports = {
            service["ports"][0]["containerPort"],
            *(service[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "liveness")),
        }
        assert ports == {8080}
        assert ready.state()["metrics_of"] == ["gtsrb-r2"]

    def test_staging_sends_none(self, ready: Double) -> None:
        deploy(cloud(METRICS, "serve.stage=staging"), works, works)
        assert len(self.spec(ready)["spec"]["containers"]) == 1

    def test_a_service_without_the_right_to_send_metrics_still_serves(self, ready: Double) -> None:
        ready.set_state(denied=["serve", "monitoring.timeSeries.create"])
        deploy(cloud(METRICS), works, works)
        assert ready.traffic() == {"gtsrb-r2": 100}
        assert "metrics_of" not in ready.state()

    def test_only_the_service_may_send_metrics(self, ready: Double) -> None:
        bindings = ready.state()["policies"]["project"]
        assert [who.partition("@")[0] for who, role, _ in bindings if role == "roles/monitoring.metricWriter"] == [
            "serviceAccount:gtsrb-serve"
        ]

    def test_rollbacks_find_the_model_next_to_a_sidecar(self, ready: Double) -> None:
        deploy(cloud(METRICS), works, works)
        deploy(cloud(METRICS, "serve.memory=2Gi"), works, works)
        rollback(cloud(METRICS, "serve.model=previous"), works)
        assert ready.traffic() == {"gtsrb-r2": 100}
        rollback(cloud(METRICS), works)
        assert ready.traffic() == {"gtsrb-r2": 100}  # it has the model already

    def test_a_public_service_with_a_sidecar_asks_for_keys(self, ready: Double) -> None:
        public = ("serve.public=true", METRICS)
        bootstrap(cloud(*public))
        deploy(cloud(*public), works, works)
        bootstrap(cloud(*public))
        assert ["allUsers", "roles/run.invoker", None] in ready.state()["policies"]["services/gtsrb"]


class TestMonitoring:
    def test_creates_everything(self, deployed: Double) -> None:
        monitor(cloud(METRICS, LOG, EMAIL))
        [channel] = made(deployed)["channels"]
        assert channel["labels"] == {"email_address": "me@example.com"}
        [check] = made(deployed)["uptime"]
        assert check["options"]["resource-labels"] == "host=gtsrb,project_id=my-project"
        assert check["options"]["path"] == "/health/live"
        policies = made(deployed)["policies"]
        assert all(policy["notificationChannels"] == [channel["name"]] for policy in policies)
        names = {metric["name"] for metric in made(deployed)["metrics"]}
        assert names == {"gtsrb_errors", "gtsrb_drift_reports", "gtsrb_drift_findings"}
        assert titles(deployed, "dashboards") == ["gtsrb"]
        alerts = yaml.safe_load((ROOT / "monitoring/alerts.yml").read_text())
        found = [rule["alert"] for group in alerts["groups"] for rule in group["rules"]]
        wanted = [name for name in found if "left_out" not in SPECIAL.get(name, {})]
        assert titles(deployed, "policies") == wanted

    def test_a_second_run_changes_nothing(self, deployed: Double) -> None:
        monitor(cloud(METRICS, LOG, EMAIL))
        before = made(deployed)
        deployed.forget()
        monitor(cloud(METRICS, LOG, EMAIL))
        assert changes(deployed) == []
        assert made(deployed) == before

    def test_the_uptime_check_may_call_a_private_service(self, deployed: Double) -> None:
        monitor(cloud())
        assert made(deployed)["uptime"][0]["options"]["service-agent-auth"] == "oidc-token"
        assert [f"serviceAccount:{AGENT}", "roles/run.invoker", None] in deployed.state()["policies"]["services/gtsrb"]

    def test_a_new_service_account_is_waited_for(self, deployed: Double) -> None:
        deployed.fails("add-iam-policy-binding gtsrb", f"ERROR: Service account {AGENT} does not exist.", times=2)
        monitor(cloud())
        assert sum("add-iam-policy-binding gtsrb" in call for call in deployed.calls()) == 3

    def test_a_public_service_needs_no_token(self, deployed: Double) -> None:
        monitor(cloud("serve.public=true"))
        assert "service-agent-auth" not in made(deployed)["uptime"][0]["options"]
        assert not any("add-iam-policy-binding" in call for call in deployed.calls())

    def test_without_metrics_only_the_uptime_is_watched(
        self, deployed: Double, caplog: pytest.LogCaptureFixture
    ) -> None:
        monitor(cloud())
        assert titles(deployed, "policies") == ["ServiceDown"]
        assert [metric["name"] for metric in made(deployed)["metrics"]] == ["gtsrb_errors"]
        assert "Set cloud.serve.metrics=true, and run `inv gcp.deploy`" in caplog.text
        assert "Set cloud.alert_email" in caplog.text

    def test_production_is_watched_whatever_the_stage_is(self, deployed: Double) -> None:
        monitor(cloud("serve.stage=staging", METRICS))
        assert len(titles(deployed, "policies")) > 5

    def test_changed_settings_are_applied(self, deployed: Double) -> None:
        monitor(cloud(METRICS, LOG))
        names = [policy["name"] for policy in made(deployed)["policies"]]
        monitor(cloud(METRICS, LOG, EMAIL))
        [channel] = made(deployed)["channels"]
        monitor(cloud(METRICS, LOG, "alert_email=you@example.com"))
        assert made(deployed)["channels"][0]["labels"] == {"email_address": "you@example.com"}
        assert made(deployed)["channels"][0]["name"] == channel["name"]
        assert [policy["name"] for policy in made(deployed)["policies"]] == names
        monitor(cloud(METRICS))
        assert made(deployed)["channels"] == []
        assert not {"DriftFound", "DriftNotChecked"} & {*titles(deployed, "policies")}
        assert [metric["name"] for metric in made(deployed)["metrics"]] == ["gtsrb_errors"]

    def test_changed_files_are_applied(self, deployed: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monitor(cloud(METRICS, LOG))
        for file in (ROOT / "cloud/monitoring").iterdir():
            text = file.read_text().replace("Instances", "Number of instances").replace('"5" # minutes', '"10"')
            target = tmp_path / "monitoring" / file.name
            target.parent.mkdir(exist_ok=True)
            target.write_text(text.replace("Drift reports.", "All drift reports."))
        monkeypatch.setattr("src.mlops.cloud.names.TEMPLATES", tmp_path)
        deployed.forget()
        monitor(cloud(METRICS, LOG))
        assert len(changes(deployed)) == 4
        assert "Number of instances" in json.dumps(made(deployed)["dashboards"])
        [check] = made(deployed)["uptime"]
        assert check["options"]["period"] == "10"
        assert "All drift reports." in [metric["description"] for metric in made(deployed)["metrics"]]

    def test_resources_of_others_are_not_touched(self, deployed: Double) -> None:
        foreign = {
            "name": "projects/my-project/policies/x",
            "displayName": "gtsrb: ServiceDown",
            "notificationChannels": [],
        }
        other = foreign | {"name": "projects/my-project/policies/y", "userLabels": {"mlops": "other"}}
        deployed.set_state(monitoring={"policies": [foreign, other]})
        monitor(cloud())
        teardown(cloud("teardown.confirm=my-project"))
        assert made(deployed)["policies"] == [foreign, other]

    @pytest.mark.parametrize("acts", [False, True])
    def test_killed_at_any_step_and_run_again(self, deployed: Double, acts: bool) -> None:
        """With `acts`, a request succeeds, but its response is lost. Nothing is created twice."""
        fresh = deployed.state()
        monitor(cloud(METRICS, LOG, EMAIL))
        expected = made(deployed)
        for call in changes(deployed):
            deployed.write(fresh)
            deployed.script({"match": re.escape(call), "stderr": "Killed", "acts": acts})
            with pytest.raises(CloudError, match="Killed"):
                monitor(cloud(METRICS, LOG, EMAIL))
            monitor(cloud(METRICS, LOG, EMAIL))
            for kind, things in expected.items():
                assert len(made(deployed)[kind]) == len(things), call

    def test_resources_that_were_created_twice_are_deleted(self, deployed: Double) -> None:
        monitor(cloud(METRICS))
        state = deployed.state()
        twin = state["monitoring"]["policies"][0] | {"name": "projects/my-project/policies/twin"}
        state["monitoring"]["policies"].append(twin)
        deployed.write(state)
        before = titles(deployed, "policies")[:-1]
        monitor(cloud(METRICS))
        assert titles(deployed, "policies") == before

    def test_nothing_is_deployed(self, ready: Double) -> None:
        with pytest.raises(CloudError, match=r"Nothing is deployed to gtsrb yet.*inv gcp\.deploy"):
            monitor(cloud())
        assert changes(ready) == []

    @pytest.mark.parametrize("permission", PERMISSIONS)
    def test_a_missing_permission(self, deployed: Double, permission: str) -> None:
        deployed.set_state(denied=["owner", permission])
        with pytest.raises(CloudError, match=rf"{re.escape(permission)}.*inv gcp\.bootstrap") as caught:
            monitor(cloud(METRICS, LOG, EMAIL))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("service", ["monitoring", "logging"])
    def test_a_service_that_is_not_enabled(self, deployed: Double, service: str) -> None:
        deployed.set_state(enabled=[name for name in deployed.state()["enabled"] if name != service])
        with pytest.raises(
            CloudError, match=rf"Enable the service {service}\.googleapis\.com with `inv gcp\.bootstrap`"
        ):
            monitor(cloud())

    def test_gcloud_without_alpha_commands(self, deployed: Double) -> None:
        said = "ERROR: (gcloud.alpha) This requires the installation of components: [alpha]"
        deployed.fails("alpha monitoring channels", said)
        with pytest.raises(CloudError, match="gcloud components install alpha"):
            monitor(cloud())

    def test_dry_run(self, gcloud: Double, capsys: pytest.CaptureFixture[str]) -> None:
        monitor(cloud("dry_run=true", METRICS, LOG, EMAIL))
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) > 20
        assert all(line.startswith("gcloud ") for line in printed)
        assert gcloud.calls() == []

    @pytest.mark.parametrize("address", ["me", "me@", "a@b.org,c@d.org", "me@example"])
    def test_a_wrong_address(self, address: str) -> None:
        with pytest.raises(ConfigError, match="alert_email"):
            quick_config([f"cloud.alert_email='{address}'"])

    def test_a_teardown_deletes_everything(self, deployed: Double) -> None:
        monitor(cloud(METRICS, LOG, EMAIL))
        for _ in range(2):
            teardown(cloud("teardown.confirm=my-project"))
            assert not any(made(deployed).values())
            bootstrap(cloud())


class TestPolicies:
    """The alerts of monitoring/alerts.yml as policies."""

    @staticmethod
    def policies(*overrides: str) -> dict[str, dict[str, Any]]:
        return alert_policies(Names(cloud(METRICS, LOG, *overrides)), "host", [])

    @staticmethod
    def rules() -> list[dict[str, Any]]:
        groups = yaml.safe_load((ROOT / "monitoring/alerts.yml").read_text())["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def test_what_differs_in_the_cloud_is_an_alert_with_a_reason(self) -> None:
        assert {*SPECIAL} <= {rule["alert"] for rule in self.rules()}
        assert all(len({"condition", "query", "left_out"} & {*own}) == 1 for own in SPECIAL.values())

    def test_documentation_is_the_entry_of_the_runbook(self) -> None:
        policy = self.policies()["gtsrb: Overloaded"]
        assert policy["severity"] == "CRITICAL"
        assert "MLOPS_QUEUE_SIZE" in policy["documentation"]["content"]
        assert "links" not in policy["documentation"]
        for policy in self.policies().values():
            assert "](" not in policy["documentation"]["content"]
            assert "#" not in policy["documentation"]["content"][:1]

    def test_notifications_link_to_the_runbook(self) -> None:
        policies = self.policies("github=owner/name", "github_id=11", "github_owner_id=22")
        [link] = policies["gtsrb: ModelStale"]["documentation"]["links"]
        assert link["url"] == "https://github.com/owner/name/blob/main/docs/how-to/runbook.md#modelstale"

    def test_queries_read_this_service_and_no_recorded_values(self) -> None:
        dashboard = json.loads((ROOT / "cloud/monitoring/dashboard.json").read_text())
        charts = [
            chart for tile in dashboard["mosaicLayout"]["tiles"] for chart in tile["widget"]["xyChart"]["dataSets"]
        ]
        names = Names(cloud())
        queries = [to_cloud(names, chart["timeSeriesQuery"]["prometheusQuery"]) for chart in charts]
        for policy in self.policies().values():
            queries += [
                one["query"] for condition in policy["conditions"] for one in condition.values() if "query" in one
            ]
        assert len(queries) > 20
        for query in queries:
            assert query.count("mlops_") == len(re.findall(r'mlops_\w+\{cluster="__run__", namespace="gtsrb"', query))
            assert not re.search(r'job="|\b\w+:\w+:\w+', query.replace("logging_googleapis_com:user", ""))

    def test_names_with_hyphens(self) -> None:
        [policy] = [one for title, one in self.policies("name=road-signs").items() if title.endswith("DriftFound")]
        query = policy["conditions"][0]["conditionPrometheusQueryLanguage"]["query"]
        assert "user_road_signs_drift_findings" in query

    def test_the_tests_of_the_alerts_pass_for_the_queries_in_the_cloud(self, tmp_path: Path) -> None:
        """Series have the labels that the sidecar gives them, so the alerts do, too."""
        require("promtool")
        sidecar = {"job": "run-gmp-sidecar", "cluster": "__run__", "namespace": "gtsrb"}
        rules = []
        for rule in self.rules():
            policy = self.policies().get(f"gtsrb: {rule['alert']}")
            if policy and rule["alert"] not in SPECIAL:
                [condition] = policy["conditions"]
                own = condition["conditionPrometheusQueryLanguage"]
                rules.append(rule | {"expr": own["query"], "for": own["duration"]})
        (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "cloud", "rules": rules}]}))
        checked = 0
        for file in sorted((ROOT / "monitoring").glob("*_test.yml")):
            content = yaml.safe_load(file.read_text()) | {"rule_files": ["rules.yml"]}
            for test in content["tests"]:
                for series in test["input_series"]:
                    labels = ", ".join(f'{key}="{value}"' for key, value in sidecar.items())
                    series["series"] = series["series"].replace('job="service"', labels)
                cases = test.get("alert_rule_test", [])
                test["alert_rule_test"] = [case for case in cases if case["alertname"] not in SPECIAL]
                for alert in [one for case in test["alert_rule_test"] for one in case.get("exp_alerts", [])]:
                    labels = alert["exp_labels"]
                    if labels.get("job") == "service":
                        labels |= sidecar if "instance" in labels else {"job": sidecar["job"]}
                    checked += 1
            (tmp_path / file.name).write_text(yaml.safe_dump(content))
            done = subprocess.run(
                ["promtool", "test", "rules", file.name], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert not done.returncode, done.stdout + done.stderr
        assert checked >= len(rules)
