"""Tests labels through HTTP: `/feedback` and the routes of the review page."""

import errno
import json
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from src.mlops import monitoring
from src.mlops.data.gtsrb import SIGNS
from src.mlops.inference.classifier import Prediction
from src.mlops.io.storage import Folder
from src.mlops.monitoring.erase import erase
from src.mlops.monitoring.images import image_ending
from src.mlops.monitoring.labels import Labels, standing_label
from src.mlops.monitoring.record import json_lines
from src.mlops.monitoring.segments import IMAGES, LABELS
from src.mlops.serving.app import create_app
from src.mlops.serving.settings import Settings
from tests.helpers.graphs import with_classes
from tests.helpers.recording import PNG as IMAGE
from tests.helpers.recording import batch, prediction, store_segment
from tests.helpers.service import ADMIN, PNG, assert_problem, post, sample

STOP, YIELD = 14, 13
TODAY = f"{datetime.now(UTC):%Y-%m-%d}"
Open = Callable[..., TestClient]


@pytest.fixture
def serve(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    monkeypatch.setattr("src.mlops.monitoring.recent.REFRESH_SECONDS", 0)

    def started(**options: Any) -> TestClient:
        given = {"model": str(exported), "log_url": str(tmp_path), "admin_token": SecretStr("secret"), **options}
        return TestClient(create_app(Settings(**given)))

    return started


def store(
    folder: Path, *ids: str, predictions: Sequence[Prediction] | None = None, images: bool = False, day: str = TODAY
) -> list[str]:
    """Writes a segment with one record for each request ID. Returns the IDs of the records."""
    records = [f"record-{'-'.join(ids)}-{number}" for number in range(len(ids))]
    endings = [image_ending(name) for name in ids]
    names = [
        f"{IMAGES}/date={day}/{record}{end}" if images else None for record, end in zip(records, endings, strict=True)
    ]
    for name in filter(None, names):
        Folder(folder).write(name, IMAGE)
    lines = json_lines([batch(*ids, predictions=predictions)], iter(records), names).splitlines()
    store_segment(str(folder), f"{day}/{'.'.join(ids)}", lines)
    return records


def feedback(client: TestClient, request_id: str = "a", true_class: Any = STOP, **more: Any):  # type: ignore[no-untyped-def]
    return client.post("/feedback", json={"request_id": request_id, "true_class": true_class, **more})


def review(client: TestClient, record_id: str, verdict: str, class_id: int | None = None, expected: str | None = None):  # type: ignore[no-untyped-def]
    body = {"record_id": record_id, "verdict": verdict, "class_id": class_id, "expected": expected}
    return client.post("/review/labels", json=body, headers=ADMIN)


def queue(client: TestClient) -> Any:
    response = client.get("/review/queue", headers=ADMIN)
    assert response.status_code == 200, response.text
    return response.json()


def stored(folder: Path) -> list[tuple[str, int | None, str]]:
    """Returns verdict, class and source of all labels, in the order of their numbers."""
    labels = [label for history in Labels(Folder(folder)).all().values() for label in history]
    return [(label.verdict, label.class_id, label.source) for label in labels]


class TestFeedback:
    @pytest.mark.parametrize(("given", "name"), [(STOP, "Stop"), ("Stop", "Stop"), (None, None)])
    def test_is_stored(self, serve: Open, tmp_path: Path, given: int | str | None, name: str | None) -> None:
        store(tmp_path, "a")
        with serve() as client:
            answer = feedback(client, true_class=given).json()
        assert (answer["class_name"], answer["predicted_class"], answer["is_new"]) == (name, 1, True)
        assert answer["contradicts"] is None
        [file] = (path for path in (tmp_path / LABELS).rglob("*") if path.is_file())
        content = json.loads(file.read_text())
        assert content["request_id"] == "a"
        assert (content["class_name"], content["verdict"]) == (name, "class" if name else "none")

    def test_finds_a_prediction_whose_segment_is_still_open(self, serve: Open, tmp_path: Path) -> None:
        with serve(log_flush_seconds=0.1) as client:
            sent = [("files", (f"{number}.png", PNG)) for number in range(6)]
            sent.insert(2, ("files", ("c.txt", b"no image")))
            client.post("/cv_model/batch", files=sent, headers={"X-Request-ID": "id-1"})
            for _ in range(500):
                if (answer := feedback(client, "id-1", image_number=6)).status_code == 200:
                    break
                threading.Event().wait(0.01)
            assert answer.status_code == 200
            assert [*tmp_path.glob("records/*/*.part")]
            assert feedback(client, "id-1", image_number=1).status_code == 200
            assert_problem(feedback(client, "id-1", image_number=2), 404, "Image 2 of")  # it was no image
        assert len(stored(tmp_path)) == 2

    def test_about_an_unknown_request(self, serve: Open, tmp_path: Path) -> None:
        store(tmp_path, "a")
        with serve() as client:
            assert_problem(feedback(client, "b"), 404, "Image 0 of the request b is not recorded")
            assert_problem(feedback(client, image_number=1), 404, "Image 1 of")
        assert stored(tmp_path) == []

    @pytest.mark.parametrize("given", [43, -1, "No such sign", "", "14", 2**40])
    def test_with_an_impossible_class(self, serve: Open, tmp_path: Path, given: object) -> None:
        store(tmp_path, "a")
        with serve() as client:
            assert_problem(feedback(client, true_class=given), 422, "does not exist")
        assert stored(tmp_path) == []

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"request_id": "a"},
            {"request_id": "a", "true_class": True},
            {"request_id": "a", "true_class": 1.5},
            {"request_id": "a", "true_class": [1]},
            {"request_id": "../a", "true_class": 1},
            {"request_id": "a", "true_class": 1, "image_number": -1},
            {"request_id": "a", "true_class": 1, "image_number": "0"},
            {"request_id": "a", "true_class": 1, "class": 2},
        ],
    )
    def test_that_is_malformed(self, serve: Open, tmp_path: Path, body: dict[str, object]) -> None:
        store(tmp_path, "a")
        with serve() as client:
            assert_problem(client.post("/feedback", json=body), 422, "not valid")

    def test_twice(self, serve: Open, tmp_path: Path) -> None:
        store(tmp_path, "a")
        with serve() as client:
            first, second = feedback(client).json(), feedback(client, true_class="Stop").json()
        assert second == first | {"is_new": False}
        assert stored(tmp_path) == [("class", STOP, "feedback")]

    def test_that_contradicts(self, serve: Open, tmp_path: Path) -> None:
        [record] = store(tmp_path, "a")
        with serve() as client:
            feedback(client)
            assert feedback(client, true_class=YIELD).json()["contradicts"] == "Stop"
        history = Labels(Folder(tmp_path)).all()[record]
        assert [label.class_id for label in history] == [STOP, YIELD]
        standing = standing_label(history)
        assert standing
        assert standing.class_id == YIELD  # the last one counts

    def test_cannot_change_the_label_of_a_reviewer(self, serve: Open, tmp_path: Path) -> None:
        [record] = store(tmp_path, "a")
        with serve() as client:
            review(client, record, "class", STOP)
            assert_problem(feedback(client, true_class=YIELD), 409, "A reviewer has labelled this image as 'Stop'")
            assert feedback(client).status_code == 200  # agrees
        assert stored(tmp_path) == [("class", STOP, "review")]

    def test_cannot_fill_the_disk(self, serve: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("src.mlops.monitoring.labels.MAX_DECISIONS", 3)
        store(tmp_path, "a")
        with serve() as client:
            statuses = [feedback(client, true_class=number).status_code for number in range(4)]
        assert statuses == [200, 200, 200, 409]

    def test_with_a_request_id_that_was_used_twice(self, serve: Open, tmp_path: Path) -> None:
        store(tmp_path, "a")
        store(tmp_path, "a", "b")
        with serve() as client:
            assert_problem(feedback(client), 409, "used more than once")

    def test_about_other_classes(self, serve: Open, exported: Path, tmp_path: Path) -> None:
        store(tmp_path, "a")
        names = [entry.__class__(entry.class_id, f"screw {entry.class_id}") for entry in SIGNS]
        model = with_classes(exported, tmp_path / "other.onnx", type(SIGNS)(names))
        with serve(model=str(model)) as client:
            assert_problem(feedback(client), 409, "other classes")
            assert queue(client)["images"] == []

    def test_without_a_log(self, serve: Open) -> None:
        with serve(log_url="") as client:
            assert_problem(feedback(client), 404, "MLOPS_LOG_URL")
            assert_problem(client.get("/review/queue", headers=ADMIN), 404, "MLOPS_LOG_URL")
            assert_problem(review(client, "a", "none"), 404, "MLOPS_LOG_URL")

    def test_without_a_model(self, serve: Open, tmp_path: Path) -> None:
        store(tmp_path, "a")
        with serve(model="none") as client:
            assert_problem(feedback(client), 500, "Model not loaded")

    def test_needs_an_api_key_if_keys_are_configured(self, serve: Open, tmp_path: Path) -> None:
        store(tmp_path, "a")
        with serve(api_keys=SecretStr("key")) as client:
            assert_problem(feedback(client), 401, "X-API-Key")
            body = {"request_id": "a", "true_class": 1}
            assert client.post("/feedback", json=body, headers={"X-API-Key": "key"}).status_code == 200

    def test_with_a_full_disk(self, serve: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        [record] = store(tmp_path, "a")

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with serve() as client:
            with monkeypatch.context() as patch:
                patch.setattr("src.mlops.io.storage.os.fsync", full)
                for response in (feedback(client), review(client, record, "class", STOP)):
                    assert_problem(response, 503, "nothing was stored")
                    assert str(tmp_path) not in response.text
            assert not [path for path in (tmp_path / LABELS).rglob("*") if path.is_file()]  # nothing half-written
            assert feedback(client).json()["is_new"]

    def test_from_many_at_once(self, serve: Open, tmp_path: Path) -> None:
        [record] = store(tmp_path, "a")
        classes = [1, 2, 3, 4] * 3
        with serve() as client:
            threads = [threading.Thread(target=feedback, args=(client, "a", number)) for number in classes]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        history = Labels(Folder(tmp_path)).all()[record]
        assert [label.number for label in history] == list(range(1, len(history) + 1))
        assert {label.class_id for label in history} == {1, 2, 3, 4}  # none is lost

    def test_goes_on_after_a_damaged_label(self, serve: Open, tmp_path: Path) -> None:
        store(tmp_path, "a")
        with serve() as client:
            feedback(client)
            [file] = tmp_path.glob(f"{LABELS}/*/*.json")
            file.write_text("{")
        with serve() as client:
            assert feedback(client).json()["is_new"]
        assert stored(tmp_path) == [("class", STOP, "feedback")]


class TestReview:
    @pytest.mark.parametrize("token", [None, "Bearer wrong"])
    def test_needs_the_admin_token(self, serve: Open, tmp_path: Path, token: str | None) -> None:
        store(tmp_path, "a", images=True)
        headers = {"Authorization": token} if token else {}
        with serve() as client:
            assert client.get("/review").status_code == 200  # without any data
            for path in ("/review/queue", "/review/image?record_id=record-a-0"):
                assert_problem(client.get(path, headers=headers), 401, "admin token")
            assert_problem(client.post("/review/labels", json={}, headers=headers), 401, "admin token")

    def test_unknown_and_least_certain_images_come_first(self, serve: Open, tmp_path: Path) -> None:
        kinds = [prediction(), prediction(is_unknown=True), prediction(kept=[1, 2]), prediction(kept=[])]
        store(tmp_path, *"abcd", predictions=kinds)
        with serve() as client:
            found = queue(client)
        assert [image["request_id"] for image in found["images"]] in (["b", "c", "d", "a"], ["b", "d", "c", "a"])
        assert (found["labelled"], found["waiting"], len(found["classes"])) == (0, 4, 43)

    def test_labels_and_progress(self, serve: Open, tmp_path: Path) -> None:
        store(tmp_path, *"abc", images=True)
        with serve() as client:
            first, second, third = (image["record_id"] for image in queue(client)["images"])
            assert review(client, first, "class", STOP).json()["is_new"]
            review(client, second, "none")
            review(client, third, "unclear")
            found = queue(client)
        assert (found["images"], found["labelled"], found["waiting"]) == ([], 3, 0)

    def test_two_reviewers_get_different_images(
        self, serve: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store(tmp_path, *(f"r{number}" for number in range(30)))
        with serve() as client:

            def shown(reviewer: str) -> set[str]:
                found = client.get(f"/review/queue?reviewer={reviewer}", headers=ADMIN).json()
                assert found["waiting"] == 30
                return {image["record_id"] for image in found["images"]}

            first, second = shown("a"), shown("b")
            assert (len(first), len(second), first & second) == (20, 10, set())
            assert shown("a") == first
            assert len(shown("c")) == 20  # nothing is left, so the images of others
            monkeypatch.setattr("src.mlops.serving.review_desk.HELD_SECONDS", -1)
            shown("a")
            assert shown("d") == first

    def test_images(self, serve: Open, tmp_path: Path) -> None:
        [record] = store(tmp_path, "a", images=True)
        store(tmp_path, "b")
        with serve() as client:
            [image] = queue(client)["images"]  # records without an image cannot be judged
            assert image["has_image"]
            response = client.get(f"/review/image?record_id={record}", headers=ADMIN)
        assert (response.content, response.headers["content-type"]) == (IMAGE, "image/png")

    def test_without_images_there_are_only_records(self, serve: Open, tmp_path: Path) -> None:
        [record] = store(tmp_path, "a")
        with serve() as client:
            assert [image["has_image"] for image in queue(client)["images"]] == [False]
            assert_problem(client.get(f"/review/image?record_id={record}", headers=ADMIN), 404, "not stored")

    @pytest.mark.parametrize(
        "name", ["records/x.jsonl.gz", "images/../secret.png", "images/date=2026-11-30/../../s.png"]
    )
    def test_a_record_that_names_another_file(self, serve: Open, tmp_path: Path, name: str) -> None:
        (tmp_path / "s.png").write_bytes(b"secret")
        [line] = json_lines([batch("a")], iter(["r"]), [name]).splitlines()
        store_segment(str(tmp_path), f"{TODAY}/a", [line])
        with serve() as client:
            assert_problem(client.get("/review/image?record_id=r", headers=ADMIN), 404, "not stored")

    def test_images_that_were_erased_meanwhile(self, serve: Open, tmp_path: Path) -> None:
        a, b = (store(tmp_path, name, images=True)[0] for name in "ab")
        with serve() as client:
            assert len(queue(client)["images"]) == 2
            assert feedback(client).status_code == 200
            assert erase(str(tmp_path), "a") == (1, 1, 1, 0)
            assert_problem(client.get(f"/review/image?record_id={a}", headers=ADMIN), 404, "deleted meanwhile")
            assert_problem(review(client, a, "class", STOP), 404, "erased")
            assert_problem(feedback(client), 404, "erased")
            assert [image["record_id"] for image in queue(client)["images"]] == [b]
        assert stored(tmp_path) == []

    def test_an_image_that_expired_meanwhile(self, serve: Open, tmp_path: Path) -> None:
        [record] = store(tmp_path, "a", images=True)
        with serve() as client:
            queue(client)
            [name] = Folder(tmp_path).names(IMAGES)
            Folder(tmp_path).remove(name)
            assert_problem(client.get(f"/review/image?record_id={record}", headers=ADMIN), 404, "deleted meanwhile")
            assert review(client, record, "unclear").status_code == 200

    def test_undo(self, serve: Open, tmp_path: Path) -> None:
        [record] = store(tmp_path, "a")
        with serve() as client:
            label = review(client, record, "class", STOP).json()["label_id"]
            undone = review(client, record, "withdrawn", expected=label).json()["label_id"]
            [image] = queue(client)["images"]
            assert (image["label_id"], image["feedback"]) == (undone, None)
            assert review(client, record, "class", YIELD, undone).json()["is_new"]
        assert [entry[0] for entry in stored(tmp_path)] == ["class", "withdrawn", "class"]

    def test_undo_restores_the_label_before(self, serve: Open, tmp_path: Path) -> None:
        [record] = store(tmp_path, "a")
        with serve() as client:
            first = feedback(client).json()["label_id"]
            label = review(client, record, "class", YIELD, first).json()["label_id"]
            review(client, record, "withdrawn", expected=label)
            assert queue(client)["images"][0]["feedback"] == "Stop"

    def test_undo_of_nothing(self, serve: Open, tmp_path: Path) -> None:
        [record] = store(tmp_path, "a")
        with serve() as client:
            assert_problem(review(client, record, "withdrawn"), 409, "no label to withdraw")

    def test_a_double_click(self, serve: Open, tmp_path: Path) -> None:
        [record] = store(tmp_path, "a")
        with serve() as client:
            answers = [review(client, record, "class", STOP).json() for _ in range(2)]
        assert [answer["is_new"] for answer in answers] == [True, False]
        assert len(stored(tmp_path)) == 1

    def test_two_reviewers_at_once(self, serve: Open, tmp_path: Path) -> None:
        [record] = store(tmp_path, "a")
        with serve() as one, serve() as other:  # two processes with the same log
            assert queue(one)["images"] == queue(other)["images"]
            assert review(one, record, "class", STOP).status_code == 200
            assert_problem(review(other, record, "class", YIELD), 409, "It now says: Stop.")
            assert review(other, record, "class", STOP).json()["is_new"] is False  # they agree
            assert queue(other)["images"] == []
        assert stored(tmp_path) == [("class", STOP, "review")]

    @pytest.mark.parametrize(("verdict", "class_id"), [("class", None), ("none", 3), ("class", 99), ("odd", None)])
    def test_impossible_decisions(self, serve: Open, tmp_path: Path, verdict: str, class_id: int | None) -> None:
        [record] = store(tmp_path, "a")
        with serve() as client:
            assert review(client, record, verdict, class_id).status_code == 422
        assert stored(tmp_path) == []

    def test_days_that_need_pyarrow_are_left_out(
        self, serve: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store(tmp_path, "a")
        Folder(tmp_path).write(f"records/date={TODAY}/compacted-0123.parquet", b"?")
        monkeypatch.setitem(sys.modules, "src.mlops.monitoring.parquet", None)
        monkeypatch.delattr(monitoring, "parquet", raising=False)  # if another test has imported it
        with serve() as client:
            found = queue(client)
        assert [image["request_id"] for image in found["images"]] == ["a"]
        assert found["unreadable_days"] == [TODAY]

    def test_only_the_last_days_are_searched(self, serve: Open, tmp_path: Path) -> None:
        store(tmp_path, "old", day="2026-01-01")
        store(tmp_path, "new")
        with serve() as client:
            assert [image["request_id"] for image in queue(client)["images"]] == ["new"]

    def test_a_damaged_file_is_left_out(self, serve: Open, tmp_path: Path) -> None:
        store(tmp_path, "a")
        Folder(tmp_path).write(f"records/date={TODAY}/x.jsonl.gz", b"damaged")
        with serve() as client:
            assert len(queue(client)["images"]) == 1

    def test_images_of_the_service_itself(self, serve: Open, tmp_path: Path) -> None:
        with serve(log_images=1) as client:
            post(client, PNG)
        with serve() as client:
            [image] = queue(client)["images"]
            assert client.get(f"/review/image?record_id={image['record_id']}", headers=ADMIN).status_code == 200


class TestMetric:
    def test_counts_what_was_stored(self, serve: Open, tmp_path: Path) -> None:
        def values() -> dict[tuple[str, str], float]:
            sources = {"feedback": ("class", "none"), "review": ("class", "none", "unclear", "withdrawn")}
            pairs = [(source, verdict) for source, verdicts in sources.items() for verdict in verdicts]
            return {pair: sample("mlops_labels_total", source=pair[0], verdict=pair[1]) for pair in pairs}

        [record] = store(tmp_path, "a")
        with serve() as client:
            text = client.get("/metrics").text
            before = values()
            feedback(client)
            feedback(client)  # stored once
            feedback(client, true_class=None)
            feedback(client, true_class="No such sign")
            answer = review(client, record, "class", STOP, expected=queue(client)["images"][0]["label_id"])
            review(client, record, "class", STOP, expected=answer.json()["label_id"])  # a double click
            feedback(client, true_class=YIELD)  # contradicts the reviewer
            review(client, record, "withdrawn", expected=answer.json()["label_id"])
            added = {pair: value - before[pair] for pair, value in values().items()}
        assert text.count("mlops_labels_total{") == len(before)  # all of them from the start
        assert {pair: count for pair, count in added.items() if count} == {
            ("feedback", "class"): 1, ("feedback", "none"): 1, ("review", "class"): 1, ("review", "withdrawn"): 1,
        }  # fmt: skip
