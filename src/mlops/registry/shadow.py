"""Checks in the prediction log how a candidate answered real images as a shadow of the service.

See docs/how-to/shadow.md.
"""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from src.mlops.config import GateConfig
from src.mlops.inference.classifier import Classifier
from src.mlops.monitoring.read import read_records
from src.mlops.registry.gate import Check

_CLOCK_ERROR = timedelta(days=1)  # between the machines that trained the model and recorded the images


def shadow_checks(limits: GateConfig, candidate: Classifier) -> list[Check]:
    """Checks that a candidate answered enough images as a shadow, and did not report too many of them as unknown.

    How often its class differs from that of the model in service is stated, but not limited: a better model differs,
    too.

    Args:
        limits: `shadow_log` is the prediction log.
        candidate: The model to promote.

    Returns:
        The checks; none if `shadow_log` is None.

    Raises:
        StorageError: The log cannot be read.
    """
    if not limits.shadow_log:
        return []
    images = unknown = served_unknown = differing = 0
    for record in read_records(limits.shadow_log, _created(candidate)):
        if record.get("shadow_model_version") != candidate.version or record.get("shadow_predicted_class") is None:
            continue
        images += 1
        unknown += bool(record.get("shadow_is_unknown"))
        served_unknown += bool(record.get("is_unknown"))
        differing += record["shadow_predicted_class"] != record["predicted_class"]
    enough = f">= {limits.shadow_images:,}", images >= limits.shadow_images
    if not images:
        return [Check("images answered as a shadow", f"0 in {limits.shadow_log}", *enough)]
    rise = (unknown - served_unknown) / images
    return [
        Check(
            "images answered as a shadow",
            f"{images:,}, {differing / images:.1%} with another class than the model in service",
            *enough,
        ),
        Check(
            "rise of unknown images as a shadow",
            f"{rise:+.1%}: {unknown / images:.1%}, the model in service {served_unknown / images:.1%}",
            f"<= {limits.max_unknown_rise:.1%}",
            rise <= limits.max_unknown_rise,
        ),
    ]


def _created(candidate: Classifier) -> datetime | None:
    """Returns the time before which the candidate did not exist; None if it is not known."""
    with suppress(ValueError, OverflowError):
        created = datetime.fromisoformat(str(candidate.info.provenance.get("created")))
        return (created if created.tzinfo else created.replace(tzinfo=UTC)) - _CLOCK_ERROR
    return None
