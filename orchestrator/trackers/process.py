"""A tracker in a process of its own: `python -m orchestrator.trackers.process RUN STORAGE ATTEMPT NAME SETTINGS`.

It reads the run's events as they come and sends what they bring, until its standard input ends; then what is left. It
tells how it goes in lines of JSON: {} where it lives, {"sent": points}, {"error": cause} before it ends of one,
{"done": true}. Whatever fails ends it, and another one goes on where it stood.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cluster.storage import open_storage
from orchestrator.config.trackers import TrackerConfig, TrackersConfig
from orchestrator.trackers.opening import Opener, open_tracker
from orchestrator.trackers.sending import Sending

_LOOK_S = 1.0
"""Seconds between two looks for a segment."""

_LINGER_S = 15.0
"""Seconds beyond those of `finish_s` after which it ends by itself, should nobody be there to end it."""

Tell = Callable[[dict[str, Any]], None]


def config_of(name: str, settings: str) -> TrackerConfig:
    """A tracker's settings from their JSON."""
    config = getattr(TrackersConfig.model_validate({name: json.loads(settings)}), name)
    assert isinstance(config, TrackerConfig)
    return config


def watch_run(sending: Sending, attempt: int, over: threading.Event, tell: Tell, opener: Callable[[], Any]) -> None:
    """Send segments until the run is over and all are sent."""
    tell({})
    tracker, behind = opener(), sending.behind()
    while True:
        last = over.is_set()  # asked before the look: what came before the end is then seen
        place = behind.pop(0) if behind else sending.next_of(attempt)
        if place is not None:
            sending.send(place, tracker)
            tell({"sent": sending.sent})
        elif last:
            break
        else:
            tell({})
            over.wait(_LOOK_S)
    tracker.close()
    tell({"done": True})


def _end_with_input(over: threading.Event, patience_s: float) -> None:
    """Note that nobody holds this process's input any more, and end it if it does not end soon."""
    while os.read(0, 4096):
        pass
    over.set()
    threading.Timer(patience_s, os._exit, [1]).start()


def main(arguments: list[str], opener: Opener = open_tracker) -> None:
    """Watch a run, and say so."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not for the driver

    def tell(status: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # the driver is gone; what is left is sent all the same
            out.write(json.dumps(status) + "\n")
            out.flush()

    run, storage, attempt, name, settings = arguments
    code = 1
    try:
        config, over = config_of(name, settings), threading.Event()
        threading.Thread(target=_end_with_input, args=(over, config.finish_s + _LINGER_S), daemon=True).start()
        sending = Sending(open_storage(storage), run, name, config)
        watch_run(sending, int(attempt), over, tell, lambda: opener(name, config, sending.group))
        code = 0
    except Exception as error:
        text = str(error).strip() or "no words"
        tell({"error": f"{type(error).__name__}: {text}"})
        traceback.print_exc()
        raise
    finally:
        os._exit(code)  # threads of libraries may hang, and would keep it


if __name__ == "__main__":
    main(sys.argv[1:])
