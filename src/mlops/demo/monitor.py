"""Shows an alert on this machine: `python -m src.mlops.demo.monitor`, or `inv monitor.demo`.

Starts the service, the drift service, Prometheus and Alertmanager, and sends traffic that turns foggy and clears up
again.
"""

import time
from getpass import getuser
from typing import Annotated

import typer

from src.mlops.cli import new_app, typer_main
from src.mlops.demo.services import FOGGY, WINDOW_SECONDS, Services, UnsuccessfulError, reported, running_services, say
from src.mlops.demo.traffic import Traffic, make_images
from src.mlops.inference.classifier import Classifier
from src.mlops.modelfile.locate import LATEST, locate_model
from src.mlops.monitoring.accepted import store_baseline
from src.mlops.monitoring.drift import accept

app = new_app()
_CLEAR_SECONDS = 45.0  # traffic before the fog: the usual confidence, and the baseline of drift detection


@app.command("monitor-demo")
def main(
    images: Annotated[str, typer.Option(help="Folder of images to send; default: drawn signs.")] = "",
    model: Annotated[str, typer.Option(help="Model file; latest: last trained model.")] = LATEST,
    stay: Annotated[bool, typer.Option("--stay", help="Keep everything running until Ctrl-C.")] = False,
) -> None:
    """Starts the services, lets the traffic turn foggy, and shows how alerts fire and resolve."""
    sent = make_images(images, Classifier.load(locate_model(model)))
    with reported(), running_services(model) as services, Traffic(services.service.base_url, sent) as traffic:
        services.show_addresses()
        _demonstrate(services, traffic, model)
        if stay:
            say("Everything keeps running, with clear traffic, until Ctrl-C.")
            while True:
                time.sleep(1)


def _demonstrate(services: Services, traffic: Traffic, model: str) -> None:
    say(f"Clear traffic for {_CLEAR_SECONDS:.0f} s. It becomes the baseline of drift detection.")
    time.sleep(_CLEAR_SECONDS)
    baseline = accept(services.log, getuser(), model=model, cluster_seconds=0)
    store_baseline(services.log, baseline)

    say("Fog comes up.")
    traffic.bring_fog()
    services.wait_for_alerts(FOGGY, fire=True)
    services.report_drift()
    services.wait_for_alerts({"DriftFound"}, fire=True)

    say("The fog clears.")
    traffic.severity = 0
    time.sleep(WINDOW_SECONDS + 1)  # so that the window of the report is clear
    services.report_drift()
    services.wait_for_alerts(FOGGY | {"DriftFound"}, fire=False)

    say("The traffic stops.")
    traffic.paused = True
    services.wait_for_alerts({"NoTraffic"}, fire=True)
    say("The traffic starts again.")
    traffic.paused = False
    services.wait_for_alerts({"NoTraffic"}, fire=False)
    if traffic.failed:
        raise UnsuccessfulError(f"{traffic.failed} of {traffic.sent} images were not classified.")


if __name__ == "__main__":
    typer_main(app)
