"""Kinds of files, whole and broken; patterns, folders and saved datasets, here and on S3."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.screening import screened
from support.servers.s3_servers import reached_at

from cluster.storage import open_storage

ITEMS: list[dict[str, Any]] = [
    {"id": "0", "prompt": "the fever", "answer": "is high"},
    {"id": "1", "prompt": 'a "contract",\nwith lines', "answer": "binds é"},
    {"id": "2", "prompt": "the rule", "answer": None},
]


def jsonl(items: list[Any]) -> bytes:
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items).encode()


def as_csv(items: list[dict[str, Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, items[0].keys())
    writer.writeheader()
    writer.writerows(items)
    return out.getvalue().encode()


def parquet(items: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(items), out, row_group_size=2)
    return out.getvalue()


def zst(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="zstd", asbytes=True))


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    plain = {
        ".jsonl": jsonl(ITEMS),
        ".json": jsonl(ITEMS),
        ".csv": as_csv(ITEMS),
        ".parquet": parquet(ITEMS),
    }
    arrays = [
        json.dumps(ITEMS).encode(),
        json.dumps(ITEMS, indent=2).encode(),
        b"\xef\xbb\xbf\n" + json.dumps(ITEMS).encode(),
    ]
    expected = None
    cases = [(f"rows{kind}{c}", f(data)) for kind, data in plain.items() for c, f in PACKED.items()]
    for name, data in [*cases, *(("rows.json", array) for array in arrays)]:
        (tmp_path / name).write_bytes(data)
        found = screened(tmp_path / name)
        assert not found.rejected and len(found.prompts) == 3, name
        expected = expected or found.prompts
        assert found.prompts == expected, name


PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zst}


@pytest.mark.parametrize("suffix", PACKED)
def test_broken_lines_are_rejected_one_by_one(tmp_path: Path, suffix: str) -> None:
    lines = jsonl([{"prompt": "a"}]) + b"{\n\xff\xfe\n" + jsonl([{"prompt": "b"}])
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(PACKED[suffix](lines))
    found = screened(path)
    assert [p.prompt for p in found.prompts] == ["a", "b"]
    assert [(r.row, r.reason) for r in found.rejected] == [(1, "is not JSON"), (2, "is not UTF-8")]


def test_broken_rows_of_csv_are_rejected_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"prompt,answer\na,b\nc\nd,e,f\n\xff,x\ng,\n")
    found = screened(path)
    assert [(p.prompt, p.answer) for p in found.prompts] == [("a", "b"), ("g", None)]
    assert [r.row for r in found.rejected] == [1, 2, 3] and "not UTF-8" in found.rejected[2].reason


def test_a_long_array_is_read_in_parts(tmp_path: Path) -> None:
    items = [{"id": str(i), "prompt": f"é{i} " * (1 + 40_000 * (i % 5 == 0))} for i in range(40)]
    for indent in (None, 1):
        (tmp_path / "rows.json").write_text(json.dumps(items, indent=indent, ensure_ascii=False))
        assert [p.prompt for p in screened(tmp_path / "rows.json").prompts] == [i["prompt"] for i in items]


@pytest.mark.parametrize("end", ['{"prompt": "b"', "", '{"prompt": b}]', '"b'])
def test_an_array_that_breaks_off_is_refused(tmp_path: Path, end: str) -> None:
    """What follows cannot be found again, so nothing is read rather than a part."""
    (tmp_path / "rows.json").write_text('[\n{"prompt": "a"},\n' + end)
    with pytest.raises(ValueError, match=r"array .*element [12]"):
        screened(tmp_path / "rows.json")


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_a_file_that_breaks_off_is_refused(tmp_path: Path, suffix: str) -> None:
    rows = [{"prompt": f"question {i} {hash(str(i))}"} for i in range(500)]
    data = parquet(rows) if suffix == ".parquet" else PACKED[suffix.removeprefix(".jsonl")](jsonl(rows))
    (tmp_path / f"rows{suffix}").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"rows|whole Parquet"):
        screened(tmp_path / f"rows{suffix}")


def test_one_object_over_several_lines_is_no_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps({"data": ITEMS}, indent=2))
    with pytest.raises(ValueError, match="one JSON object over several lines"):
        screened(tmp_path / "rows.json")


def write_folder(folder: Path) -> dict[str, list[str]]:
    """Files of several kinds; returns the prompts that each source in it is to have."""
    files = {
        "a/part-0.jsonl": jsonl([{"prompt": "a0"}]),
        "a/part-1.jsonl.gz": gzip.compress(jsonl([{"prompt": "a1"}, "{"])),
        "a/deep/part-2.parquet": parquet([{"prompt": "a2"}]),
        "a/_SUCCESS": b"",
        "a/README.md": b"# rows",
        "a/dataset_infos.json": b"{}",
        "b/data/train-00000-of-00002.jsonl": jsonl([{"prompt": "b0"}]),
        "b/data/train-00001-of-00002.jsonl": jsonl([{"prompt": "b1"}]),
        "b/data/validation.jsonl": jsonl([{"prompt": "b2"}]),
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return {
        "a": ["a2", "a0", "a1"],
        "a/*.jsonl*": ["a0", "a1"],
        "a/**/part-?.parquet": ["a2"],
        "a/part-[1-9].*": ["a1"],
        "b": ["b0", "b1"],
        "b/data/*.jsonl": ["b0", "b1", "b2"],
    }


def save_datasets(folder: Path) -> None:
    import datasets

    many = datasets.Dataset.from_list([{"prompt": f"saved {i}", "messages": None} for i in range(5)])
    many.select([4, 0, 2]).save_to_disk(str(folder / "one"), num_shards=2)
    datasets.DatasetDict({"train": many, "test": many.select([1])}).save_to_disk(str(folder / "several"))


def test_patterns_folders_and_saved_datasets_here_and_on_s3(tmp_path: Path, moto_endpoint: str) -> None:
    expected = write_folder(tmp_path / "data")
    save_datasets(tmp_path / "data")
    expected |= {"one": ["saved 4", "saved 0", "saved 2"], "several": [f"saved {i}" for i in range(5)]}
    with reached_at(moto_endpoint) as bucket:
        open_storage(bucket).upload_folder(tmp_path / "data", "prompts")
        for base in (str(tmp_path / "data"), f"{bucket}/prompts"):
            for path, prompts in expected.items():
                found = screened(f"{base}/{path}")
                assert [p.prompt for p in found.prompts] == prompts, (base, path)
            broken = screened(f"{base}/a").rejected
            assert [(r.row, r.file.rsplit("/", 1)[-1]) for r in broken] == [(1, "part-1.jsonl.gz")]
            assert [p.prompt for p in screened(f"{base}/b", dataset_split="validation").prompts] == ["b2"]
            assert [p.prompt for p in screened(f"{base}/several", dataset_split="test").prompts] == ["saved 1"]
            assert len(screened(f"{base}/a/part-0.jsonl").prompts) == 1
            for missing in ("none/*.jsonl", "none", "a/none.jsonl"):
                with pytest.raises(ValueError):
                    screened(f"{base}/{missing}")
            with pytest.raises(ValueError, match="no split 'dev', but train, test"):
                screened(f"{base}/several", dataset_split="dev")
