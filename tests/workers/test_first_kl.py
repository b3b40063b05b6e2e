"""What a KL before training is held to promise."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from workers.first_kl import FirstKl, FirstKlConfig, kl0_light


def test_lights() -> None:
    at = (0, 0.049, 0.05, 0.15, 0.151, 3)
    assert [kl0_light(k, 0.05, 0.15) for k in at] == ["green", "green", "amber", "amber", "red", "red"]
    assert kl0_light(0.3, green=0.5, red=1) == "green"
    with pytest.raises(ValueError, match="nan"):
        kl0_light(float("nan"), 0.05, 0.15)


def test_thresholds_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"green 0\.2 is above red 0\.1"):
        FirstKlConfig(green=0.2, red=0.1)


def test_the_sentence_names_the_light_and_the_tokens() -> None:
    said = FirstKl(0.5623, 4096).sentence(0.05, 0.15)
    assert "0.562 nats" in said and "4,096 tokens" in said and "red" in said
