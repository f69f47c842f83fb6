"""The shadow: a candidate that answers the same images for comparison, never at the cost of the model in service."""

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from onnx import helper
from pydantic import SecretStr

from src.mlops.data.classes import ClassInfo, ClassList
from src.mlops.inference.classifier import Classifier, Prediction
from src.mlops.modelfile.checkpoint import read_plain, write_content
from src.mlops.modelfile.onnx_export import export
from src.mlops.monitoring.read import read_records
from src.mlops.monitoring.schema import Record
from src.mlops.serving.app import create_app
from src.mlops.serving.prometheus import SHADOW_OUTCOMES
from src.mlops.serving.settings import Settings
from tests.helpers.graphs import preprocessed, rewritten, with_classes, with_wrong_reshape
from tests.helpers.images import encode, make_image
from tests.helpers.recording import wait_until
from tests.helpers.service import ADMIN, PNG, asking, other_model, post, sample

IMAGES = [encode(make_image(number), "PNG") for number in range(12)]


@pytest.fixture(scope="module")
def candidate(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a model that sees negatives of the images, and so gives other answers."""
    node = helper.make_node("BitwiseNot", ["images"], ["changed"])
    return rewritten(exported, tmp_path_factory.mktemp("candidate") / "candidate.onnx", preprocessed([node]))


@pytest.fixture
def changing(candidate: Path, tmp_path: Path) -> Path:
    """Returns a copy of the candidate that a test can replace."""
    return Path(shutil.copy(candidate, tmp_path / "changing.onnx"))


@pytest.fixture
def never_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.mlops.serving.shadow.PATIENCE_SECONDS", 600.0)


@pytest.fixture
def quickly_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.mlops.serving.model_file.WATCH_SECONDS", 0.01)
    monkeypatch.setattr("src.mlops.serving.model_file.RETRY_SECONDS", (0.01, 0.02))


def settings(model: Path, shadow: Path | str, log: Path | None = None) -> Settings:
    # With 60 s, only `PATIENCE_SECONDS` limits how long images wait.
    return Settings(
        model=str(model),
        shadow_model=str(shadow),
        log_url=str(log or ""),
        log_flush_seconds=60,
        admin_token=SecretStr("secret"),
    )


@contextmanager
def comparing(model: Path, shadow: Path, log: Path | None = None) -> Iterator[TestClient]:
    """Starts a service, and waits for its shadow."""
    with TestClient(create_app(settings(model, shadow, log))) as client:
        wait_until(lambda: state(client) != "not_loaded", 60)
        yield client


def state(client: TestClient) -> str:
    return str(client.get("/model").json()["shadow"]["state"])


def outcomes(model: Path | str) -> dict[str, int]:
    version = Classifier.load(Path(model)).version
    return {name: int(sample("mlops_shadow_images_total", version=version, outcome=name)) for name in SHADOW_OUTCOMES}


def change_of(before: dict[str, int], model: Path) -> dict[str, int]:
    """Returns the outcomes since `before`, without those that did not occur."""
    found = {name: number - before[name] for name, number in outcomes(model).items()}
    return {name: number for name, number in found.items() if number}


def shadow_fields(records: list[Record]) -> set[object]:
    return {value for record in records for name, value in record.items() if name.startswith("shadow_")}


def test_the_candidate_answers_the_same_images(
    exported: Path, candidate: Path, tmp_path: Path, never_late: None
) -> None:
    before, version = outcomes(candidate), Classifier.load(candidate).version
    unknown = sample("mlops_shadow_unknown_total", version=version)
    timed = sample("mlops_shadow_seconds_count", version=version)
    served, shadow = (Classifier.load(path).classify(IMAGES) for path in (exported, candidate))
    agreed = sum(one.predicted_class == other.predicted_class for one, other in zip(served, shadow, strict=True))
    assert 0 < agreed < len(IMAGES)
    with comparing(exported, candidate, tmp_path / "log") as client:
        for content, expected in zip(IMAGES, served, strict=True):
            assert post(client, content).json() == {**expected.to_dict(), "filename": "sign.png"}
        expected_outcomes = {"agreed": agreed, "disagreed": len(IMAGES) - agreed}
        wait_until(lambda: change_of(before, candidate) == expected_outcomes, 60)
        assert client.get("/model").json()["shadow"] == {"state": "answering", "model_version": version}
    assert sample("mlops_shadow_unknown_total", version=version) - unknown == sum(one.is_unknown for one in shadow)
    assert sample("mlops_shadow_seconds_count", version=version) > timed
    assert sample("mlops_shadow_info", version=version) == 1
    records = list(read_records(str(tmp_path / "log")))
    assert [record["predicted_class"] for record in records] == [one.predicted_class for one in served]
    for record, answer in zip(records, shadow, strict=True):
        assert record["shadow_model_version"] == version
        assert record["shadow_predicted_class"] == answer.predicted_class
        assert record["shadow_is_unknown"] == answer.is_unknown
        assert record["shadow_probability"] == pytest.approx(answer.probability, abs=1e-5)


def test_without_a_log_there_are_only_metrics(exported: Path, candidate: Path, never_late: None) -> None:
    before = outcomes(candidate)
    with comparing(exported, candidate) as client:
        post(client, PNG)
        wait_until(lambda: sum(change_of(before, candidate).values()) == 1, 60)


class TestOverload:
    def test_shadow_work_is_dropped_and_nothing_else(
        self, exported: Path, candidate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So many images that some wait all the time: as many answers as without a shadow, and the same ones."""
        monkeypatch.setattr("src.mlops.serving.shadow.PATIENCE_SECONDS", 0.0)
        sent = IMAGES * 20

        async def ask(app: Any) -> list[Any]:
            async with app.router.lifespan_context(app), asking(app) as client:
                if app is compared:
                    while (await client.get("/model")).json()["shadow"]["state"] != "answering":
                        await asyncio.sleep(0.01)
                kind = {"Content-Type": "image/png"}
                answers = await asyncio.gather(
                    *(client.post("/cv_model/", content=content, headers=kind) for content in sent)
                )
                return [(answer.status_code, answer.json()) for answer in answers]

        before = outcomes(candidate)
        compared = create_app(settings(exported, candidate, tmp_path / "log"))
        with_shadow = asyncio.run(ask(compared))
        assert change_of(before, candidate) == {"dropped": len(sent)}
        without = asyncio.run(ask(create_app(Settings(model=str(exported)))))
        assert {status for status, _ in with_shadow} == {200}
        for (_, one), (_, other) in zip(with_shadow, without, strict=True):
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)  # sizes of batches differ
            assert (one["predicted_class"], one["is_unknown"]) == (other["predicted_class"], other["is_unknown"])
        records = list(read_records(str(tmp_path / "log")))
        assert (len(records), shadow_fields(records)) == (len(sent), {None})

    def test_the_candidate_waits_until_the_service_has_nothing_to_do(
        self, exported: Path, candidate: Path, tmp_path: Path, never_late: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        released, ran = threading.Event(), counted_runs(monkeypatch, candidate)
        before = outcomes(candidate)

        def busy(*_: object) -> None:
            released.wait()
            raise RuntimeError("ended")

        with comparing(exported, candidate, tmp_path / "log") as client:
            monkeypatch.setattr("src.mlops.serving.batcher.explain", busy)
            loaded = len(ran)
            asked = threading.Thread(target=lambda: client.post("/cv_model/explain", files={"file": PNG}))
            asked.start()
            wait_until(lambda: sample("mlops_queue_depth") == 1)
            for content in IMAGES:
                assert post(client, content).status_code == 200
            assert len(ran) == loaded
            released.set()
            wait_until(lambda: sum(change_of(before, candidate).values()) == len(IMAGES), 60)
            asked.join()
        assert "dropped" not in change_of(before, candidate)

    def test_a_full_queue(
        self, exported: Path, candidate: Path, tmp_path: Path, never_late: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("src.mlops.serving.shadow.QUEUE_BYTES", 1)
        before = outcomes(candidate)
        with comparing(exported, candidate, tmp_path / "log") as client:
            assert post(client, PNG).status_code == 200
        assert change_of(before, candidate) == {"dropped": 1}
        assert len(list(read_records(str(tmp_path / "log")))) == 1


def counted_runs(
    monkeypatch: pytest.MonkeyPatch, candidate: Path, instead: Callable[[], object] = lambda: None
) -> list[int]:
    """Returns a list that grows with each run of the candidate, before which `instead` is called."""
    version, run, found = Classifier.load(candidate).version, Classifier.classify_arrays, list[int]()

    def counted(self: Classifier, arrays: Any) -> list[Prediction]:
        if self.version == version:
            found.append(len(arrays))
            instead()
        return run(self, arrays)

    monkeypatch.setattr(Classifier, "classify_arrays", counted)
    return found


class TestBadCandidates:
    @pytest.mark.parametrize("kind", ["missing", "no model", "fails"])
    def test_a_file_that_cannot_be_used(
        self,
        exported: Path,
        candidate: Path,
        tmp_path: Path,
        kind: str,
        quickly_watched: None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        good, path = candidate.read_bytes(), tmp_path / "bad.onnx"
        if kind == "no model":
            path.write_bytes(b"no model")
        elif kind == "fails":
            with_wrong_reshape(exported, path)
        refused = sample("mlops_shadow_reloads_total", outcome="refused")
        with TestClient(create_app(settings(exported, path))) as client:
            wait_until(lambda: sample("mlops_shadow_reloads_total", outcome="refused") > refused, 60)
            assert post(client, PNG).status_code == 200
            assert client.get("/model").json()["shadow"] == {"state": "not_loaded", "model_version": None}
            assert client.get("/health/ready").status_code == 200
            assert "The shadow does not run" in caplog.text
            path.write_bytes(good)
            wait_until(lambda: state(client) == "answering", 60)

    def test_a_stage_to_which_nothing_was_promoted(
        self, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("MLOPS_MODEL_STORE", str(tmp_path / "store"))
        with TestClient(create_app(settings(exported, "staging"))) as client:
            wait_until(lambda: "The shadow does not run" in caplog.text)
            assert state(client) == "not_loaded"  # and not the bundled model
            assert post(client, PNG).status_code == 200
        assert "staging" in caplog.text

    def test_other_classes(
        self, exported: Path, candidate: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        classes = Classifier.load(exported).info.classes
        renamed = ClassList([ClassInfo(0, "something else"), *list(classes)[1:]])
        path = with_classes(candidate, tmp_path / "renamed.onnx", renamed)
        self._require_idle(exported, path, "other_classes", tmp_path)
        assert "something else" in caplog.text

    def test_the_model_in_service_itself(self, exported: Path, tmp_path: Path) -> None:
        self._require_idle(exported, exported, "same_model", tmp_path)

    def test_another_image_size(self, exported: Path, checkpoint: Path, tmp_path: Path) -> None:
        content = read_plain(checkpoint)
        content["config"]["data"]["image_size"] += 8
        write_content(tmp_path / "larger.pth", content)
        export(tmp_path / "larger.pth")
        self._require_idle(exported, tmp_path / "larger.onnx", "other_image_size", tmp_path)

    def _require_idle(self, model: Path, shadow: Path, expected: str, tmp_path: Path) -> None:
        before = outcomes(shadow)
        with comparing(model, shadow, tmp_path / "log") as client:
            assert state(client) == expected
            assert post(client, PNG).status_code == 200
        assert change_of(before, shadow) == {}
        [record] = read_records(str(tmp_path / "log"))
        assert shadow_fields([record]) == {None}

    def test_a_candidate_that_fails_for_an_image(
        self,
        exported: Path,
        candidate: Path,
        tmp_path: Path,
        never_late: None,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        before = outcomes(candidate)
        with comparing(exported, candidate, tmp_path / "log") as client:
            counted_runs(monkeypatch, candidate, lambda: 1 / 0)
            assert [post(client, content).status_code for content in IMAGES] == [200] * len(IMAGES)
            wait_until(lambda: change_of(before, candidate) == {"failed": len(IMAGES)}, 60)
        assert len(list(read_records(str(tmp_path / "log")))) == len(IMAGES)
        assert caplog.text.count("cannot answer an image") == 1

    def test_a_candidate_that_never_finishes(
        self, exported: Path, candidate: Path, tmp_path: Path, never_late: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("src.mlops.serving.shadow._CLOSE_SECONDS", 0.01)
        end = threading.Event()
        try:
            with comparing(exported, candidate, tmp_path / "log") as client:
                ran = counted_runs(monkeypatch, candidate, end.wait)
                assert [post(client, content).status_code for content in IMAGES] == [200] * len(IMAGES)
                wait_until(lambda: ran)
            records = list(read_records(str(tmp_path / "log")))
            assert (len(records), shadow_fields(records)) == (len(IMAGES), {None})
        finally:
            end.set()


class TestReload:
    def test_a_changed_file(self, exported: Path, changing: Path, quickly_watched: None) -> None:
        with comparing(exported, changing) as client:
            first = client.get("/model").json()["shadow"]["model_version"]
            changing.write_bytes(b"half a mod")
            refused = sample("mlops_shadow_reloads_total", outcome="refused")
            wait_until(lambda: sample("mlops_shadow_reloads_total", outcome="refused") > refused, 60)
            assert client.get("/model").json()["shadow"] == {"state": "answering", "model_version": first}
            changing.write_bytes(other_model(exported))
            wait_until(lambda: client.get("/model").json()["shadow"]["model_version"] != first, 60)
        assert sample("mlops_shadow_info", version=first) == 0

    def test_a_request_to_reload(self, exported: Path, changing: Path) -> None:
        with comparing(exported, changing) as client:
            first = client.get("/model").json()["shadow"]["model_version"]
            changing.write_bytes(other_model(exported))
            assert client.post("/admin/reload", headers=ADMIN).status_code == 200
            wait_until(lambda: client.get("/model").json()["shadow"]["model_version"] != first, 60)

    def test_a_candidate_that_goes_into_service(self, swappable: Path, candidate: Path) -> None:
        with comparing(swappable, candidate) as client:
            assert state(client) == "answering"
            swappable.write_bytes(candidate.read_bytes())
            assert client.post("/admin/reload", headers=ADMIN).status_code == 200
            assert state(client) == "same_model"
