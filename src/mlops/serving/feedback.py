"""The routes that take labels: `/feedback` from clients, and `/review` from the people who review recorded images."""

import logging
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response, params
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr
from starlette.exceptions import HTTPException

from src.mlops.data.classes import ClassInfo, ClassList
from src.mlops.errors import StorageError, shorten
from src.mlops.monitoring.labels import ContradictionError, Decision, Label, Verdict, standing_label
from src.mlops.monitoring.prediction_log import PredictionLog
from src.mlops.monitoring.recent import Recent
from src.mlops.monitoring.review_order import reviewable
from src.mlops.serving import errors, prometheus
from src.mlops.serving.auth import RequireAdmin
from src.mlops.serving.model_holder import ModelHolder
from src.mlops.serving.review_desk import ReviewDesk
from src.mlops.serving.schemas import FeedbackAnswer, ReviewImage, ReviewLabel, ReviewQueue
from src.mlops.serving.settings import Settings

logger = logging.getLogger(__name__)
_NO_LOG = "This service records no predictions, so there is nothing to label. MLOPS_LOG_URL switches the log on."
_MEANING = {
    400: "The body is not JSON.",
    408: "The request did not arrive in time.",
    431: "The headers are larger than the limit.",
    401: "The API key or the admin token is missing or wrong.",
    404: "There is no such record, or no prediction log.",
    409: "The image has another label meanwhile, other classes than the loaded model, or more than one record.",
    413: "The request is larger than the limit.",
    422: "The class does not exist, or another value is not valid.",
    429: "The client sent too many requests. `Retry-After` gives the seconds to wait.",
    500: "No model is loaded.",
    503: "The log cannot be read or written. `Retry-After` gives the seconds to wait.",
}
RecordId = Annotated[str, Field(min_length=1, max_length=200)]


class Feedback(BaseModel):
    """What one image of an earlier request really shows."""

    model_config = ConfigDict(extra="forbid")

    request_id: Annotated[
        str, Field(pattern=r"^[\w.:-]{1,128}$", description="the header X-Request-ID of the response")
    ]
    image_number: Annotated[
        StrictInt, Field(ge=0, le=2**31 - 1, description="position in `results` of a batch request, from 0")
    ] = 0
    true_class: Annotated[
        StrictInt | StrictStr | None, Field(description="ID or name of the class; null: none of the classes")
    ]


class Review(BaseModel):
    """A decision on the review page."""

    model_config = ConfigDict(extra="forbid")

    record_id: RecordId
    verdict: Annotated[
        Verdict, Field(description="a class, none of the classes, cannot be judged, or take back the last label")
    ]
    class_id: Annotated[StrictInt | None, Field(description="ID of the class if the verdict is `class`")] = None
    expected: Annotated[
        str | None, Field(min_length=1, max_length=200, description="`label_id` of the last known label; null: none")
    ]


def feedback_routes(
    settings: Settings, models: ModelHolder, log: PredictionLog | None, protection: list[params.Depends]
) -> APIRouter:
    """Returns `/feedback`, which needs an API key if keys are configured, and the routes of the review page."""
    desk = ReviewDesk(log, settings.log_review_days) if log else None
    router = APIRouter()
    router.include_router(_client_routes(models, desk, protection))
    router.include_router(_review_routes(settings, models, desk))
    return router


def _client_routes(models: ModelHolder, desk: ReviewDesk | None, protection: list[params.Depends]) -> APIRouter:
    router = APIRouter(dependencies=protection)

    # No coroutine, so FastAPI runs it in a thread: it reads and writes files. The same is true for the routes below.
    @router.post(
        "/feedback",
        operation_id="feedback",
        responses=errors.documented(400, 401, 404, 408, 409, 413, 422, 429, 431, 500, 503, meanings=_MEANING),
    )
    def feedback(given: Feedback) -> FeedbackAnswer:
        """Stores what an image really shows. The last answer counts, but none changes the label of a reviewer."""
        found = _existing(desk)
        classes = models.require().info.classes
        entry = _class(classes, given.true_class)
        decision = Decision("class" if entry else "none", *_fields(entry), "feedback")

        def is_meant(record: Recent) -> bool:
            return (record.request_id, record.image_number) == (given.request_id, given.image_number)

        try:
            record = found.one(is_meant, classes, f"Image {given.image_number} of the request {given.request_id}")
            added = found.labels.add(record.subject, decision)
        except ContradictionError as error:
            raise HTTPException(409, str(error)) from error
        except StorageError as error:
            raise _unavailable(error) from error
        if added.is_new:
            prometheus.count_label(added.label)
        return FeedbackAnswer(
            label_id=added.label.label_id,
            true_class=added.label.class_id,
            class_name=added.label.class_name,
            predicted_class=record.predicted_class,
            contradicts=_words(added.previous) if added.previous and added.is_new else None,
            is_new=added.is_new,
        )

    return router


def _review_routes(settings: Settings, models: ModelHolder, desk: ReviewDesk | None) -> APIRouter:
    router = APIRouter(prefix="/review", dependencies=[Depends(RequireAdmin(settings.admin_token))])
    responses = errors.documented(400, 401, 404, 408, 409, 413, 422, 431, 500, 503, meanings=_MEANING)

    @router.get("/queue", operation_id="review_queue", responses=responses)
    def queue(reviewer: Annotated[str, Query(max_length=64)] = "") -> ReviewQueue:
        """Returns the images to label next, mostly unknown and uncertain ones.

        docs/explanation/labels.md explains the order.

        `reviewer` is any text that differs between reviewers, so that they get different images.
        """
        found = _existing(desk)
        classes = models.require().info.classes
        try:
            records, labels = found.recent.all(), found.labels.all()
        except StorageError as error:
            raise _unavailable(error) from error
        own = reviewable(record for record in records.values() if _fits(record, classes))
        waiting = [record for record in own if not _is_reviewed(labels.get(record.record_id, []))]
        return ReviewQueue(
            images=[_shown(record, labels.get(record.record_id, [])) for record in found.next_for(reviewer, waiting)],
            labelled=len(own) - len(waiting),
            waiting=len(waiting),
            classes=[{key: asdict(entry)[key] for key in ("class_id", "name", "number")} for entry in classes],
            unreadable_days=sorted(map(str, found.recent.unreadable)),
        )

    @router.get(
        "/image",
        operation_id="review_image",
        response_class=Response,
        responses=responses | errors.documented(success=errors.PNG),
    )
    def image(record_id: RecordId) -> Response:
        """Returns the stored image of a record as a PNG."""
        found = _existing(desk)
        try:
            records = found.recent.find(lambda record: record.record_id == record_id)
            content = found.image(records[0].image or "") if records else None
        except StorageError as error:
            raise _unavailable(error) from error
        if content is None:
            raise HTTPException(404, "The image is not stored, or was deleted meanwhile.")
        return Response(content, media_type="image/png")

    @router.post("/labels", operation_id="review_label", responses=responses)
    def label(given: Review) -> ReviewLabel:
        """Stores the decision of a reviewer, unless somebody else has labelled the image since the page showed it."""
        found = _existing(desk)
        classes = models.require().info.classes
        if (given.verdict == "class") != (given.class_id is not None):
            raise HTTPException(422, "The verdict `class` needs a class_id, and no other verdict has one.")
        decision = Decision(given.verdict, *_fields(_class(classes, given.class_id)), "review")
        try:
            record = found.one(
                lambda record: record.record_id == given.record_id, classes, f"The image {given.record_id}"
            )
            added = found.labels.add(record.subject, decision, given.expected)
        except ContradictionError as error:
            raise HTTPException(409, _contradiction(error)) from error
        except StorageError as error:
            raise _unavailable(error) from error
        if added.is_new:
            prometheus.count_label(added.label)
        return ReviewLabel(added.label.label_id, added.is_new)

    return router


def _existing(desk: ReviewDesk | None) -> ReviewDesk:
    if desk is None:
        raise HTTPException(404, _NO_LOG)
    return desk


def _class(classes: ClassList, given: int | str | None) -> ClassInfo | None:
    """Finds a class by its ID or its name."""
    if given is None:
        return None
    found = [entry for entry in classes if given in (entry.class_id, entry.name)]
    if not found:
        raise HTTPException(
            422,
            f"The class {shorten(given)} does not exist. The model has the classes 0 to {len(classes) - 1}; "
            "`GET /model` lists their names.",
        )
    return found[0]


def _fields(entry: ClassInfo | None) -> tuple[int | None, str | None]:
    return (entry.class_id, entry.name) if entry else (None, None)


def _fits(record: Recent, classes: ClassList) -> bool:
    return record.class_list == classes.fingerprint and record.predicted_class < len(classes)


def _is_reviewed(history: list[Label]) -> bool:
    standing = standing_label(history)
    return standing is not None and standing.source == "review"


def _shown(record: Recent, history: list[Label]) -> ReviewImage:
    standing = standing_label(history)
    return ReviewImage(
        record_id=record.record_id,
        time=record.time.isoformat(),
        request_id=record.request_id,
        image_number=record.image_number,
        predicted_class=record.predicted_class,
        probability=record.probability,
        prediction_set=list(record.prediction_set),
        is_unknown=record.is_unknown,
        has_image=record.image is not None,
        label_id=history[-1].label_id if history else None,
        feedback=_words(standing) if standing else None,
    )


def _contradiction(error: ContradictionError) -> str:
    standing = standing_label(error.history)
    return f"{error} " + (f"It now says: {_words(standing)}." if standing else "It has no label now.")


def _words(label: Label) -> str:
    return label.class_name or {"none": "none of the classes"}.get(label.verdict, "cannot be judged")


def _unavailable(error: StorageError) -> HTTPException:
    logger.error("Labels cannot be read or stored: %s", error)
    detail = "The prediction log cannot be read or written, so nothing was stored. Try again in a moment."
    return HTTPException(503, detail, {"Retry-After": errors.RETRY_AFTER})
