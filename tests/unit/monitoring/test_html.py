"""The page of a drift report."""

from src.mlops.monitoring.html import to_html
from src.mlops.monitoring.report import compare
from tests.helpers.traffic import baseline, records


def test_examples_of_unknown_things() -> None:
    frame = records(1000).assign(image=[f"images/{row}.png" for row in range(1000)])
    frame.loc[500:, "energy"] += 12
    frame.loc[500:, "is_unknown"] = frame.index[500:] % 4 == 0
    page = to_html(compare(frame, baseline()), str.encode)
    assert "Unknown things pass by" in page
    assert page.count("data:image/png;base64") > 2
