"""The one line that a failed run ends with."""

from __future__ import annotations

from orchestrator.errors import first_cause

RAY_DATA = """ray::TeacherPool.teach() (pid=1)
ray.exceptions.RayTaskError(UserCodeException): ray::MapWorker(MapBatches(Replica)).submit() (pid=2)
  File "replica.py", line 9, in _teach
    raise DamagedStore(text)
workers.targets.damage.DamagedStore: the table is lost: put it back

The above exception was the direct cause of the following exception:

ray::MapWorker(MapBatches(Replica)).submit() (pid=2)
ray.exceptions.UserCodeException: UDF failed to process a data block.
To change retry attempts, configure `ray.data.DataContext.get_current()`"""


class Remote(Exception):
    """As Ray's: the cause is an attribute."""

    def __init__(self, text: str, cause: BaseException | None) -> None:
        super().__init__(text)
        self.cause = cause


def test_the_innermost_cause_is_told() -> None:
    assert first_cause(Remote("outer", Remote("inner", KeyError("which")))) == "KeyError: 'which'"
    chained = RuntimeError("outer")
    chained.__cause__ = ValueError("what was wrong")
    assert first_cause(chained) == "ValueError: what was wrong"
    assert first_cause(ValueError()) == "ValueError: no message"


def test_what_a_replica_raised_is_told_and_not_how_ray_data_wraps_it() -> None:
    wrapped = Remote(RAY_DATA, RuntimeError("UDF failed\nTo change retry attempts, configure"))
    assert first_cause(wrapped) == "DamagedStore: the table is lost: put it back"
    assert first_cause(Remote("outer", wrapped)) == "DamagedStore: the table is lost: put it back"
