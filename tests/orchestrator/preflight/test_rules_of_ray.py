"""Rules of Ray's that are checked before it starts, against Ray's own: each fails when Ray changes its."""

from __future__ import annotations

import pytest
from ray._private.label_utils import validate_label_selector
from ray.runtime_env import RuntimeEnv, RuntimeEnvConfig
from support.small_configuration import put

from orchestrator.config.loading import validate
from orchestrator.preflight.passed_on import RUNTIME_ENV_CONFIG_KEYS, RUNTIME_ENV_KEYS, check_passed_on


def test_the_keys_of_a_runtime_env() -> None:
    own = {key for key in RuntimeEnv.known_fields if not key.startswith("_")}
    assert own | {"nsight", "rocprof_sys"} == RUNTIME_ENV_KEYS
    assert RuntimeEnvConfig.known_fields == RUNTIME_ENV_CONFIG_KEYS


@pytest.mark.parametrize(
    "labels",
    [
        *({"role": v} for v in ("a", "!a", "in(a)", "in(a, b)", "in(a,b)", "!in(a, b)", "a.b-c_d", "x" * 63, "3")),
        *({k: "a"} for k in ("ray.io/accelerator-type", "a", "a.b/c", "x" * 63)),
        *(
            {"role": v}
            for v in ("-a", "a-", "a b", "in()", "in(a", "in(a b)", "!!a", "a,b", "x" * 64, "in(a,  b)", "@")
        ),
        *({k: "a"} for k in ("", "-a", "a/", "a b/c", "a@b", "x" * 64)),
    ],
    ids=str,
)
def test_label_selectors(labels: dict[str, str]) -> None:
    config = validate(put("teacher", {"model": "acme/teacher", "label_selector": labels}))
    try:
        check_passed_on(config)
        refused = False
    except ValueError:
        refused = True
    assert refused == (validate_label_selector(labels) is not None)
