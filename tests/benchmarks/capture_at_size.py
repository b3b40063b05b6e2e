"""What a capture of real size meets before and around its engines.

python tests/benchmarks/capture_at_size.py [--model FOLDER] [--only freezing checks log slots commits models]
    [--rows 1000000] [--checked-rows 5000000]

`freezing`: prompts to manifests, and units opened. `checks`: `validate` and `plan` on very many rows. `log`: the start
of a run on the log of very many units. `slots`: how full an engine is kept. `commits`: what of its time commits take.
`models`: fingerprints, and what a node fetches. Each is a module of size_bench/, which says more. FOLDER is a model,
for example SmolLM2 as examples/smollm2/from_gguf.py makes it; by default the quickstart's teacher. S3 is a SeaweedFS
server on this machine. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

from size_bench import TESTS, checks, commits, freezing, log, models, slots
from targets_bench.tables import show

import workers

QUICKSTART = TESTS.parent / "examples" / "quickstart" / "teacher"
SUBJECTS = {
    **{"freezing": freezing, "checks": checks, "log": log},
    **{"slots": slots, "commits": commits, "models": models},
}


def main() -> None:
    """Print tables and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=QUICKSTART)
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    for subject in SUBJECTS.values():
        subject.arguments(parser)
    args = parser.parse_args()
    assert Path(workers.__file__).parents[1] == TESTS.parent, f"{workers.__file__} would be measured"
    figures: dict[str, Any] = {}
    for name in args.only:
        found = SUBJECTS[name].measure(args)
        show(name, ["", "measured"], list(found.items()))
        figures |= found
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
