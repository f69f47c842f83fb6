"""JSON that every parser accepts."""

import json

import pytest

from src.mlops.io.files import to_json


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_json_never_holds_nan_or_infinity(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json({"values": [1.0, number]})


def test_json_is_laid_out_as_asked() -> None:
    value = {"name": "Überholverbot", "sizes": [1, 2.5, None]}
    assert to_json(value) == json.dumps(value)
    assert to_json(value, indent=2, ensure_ascii=False) == json.dumps(value, indent=2, ensure_ascii=False)
