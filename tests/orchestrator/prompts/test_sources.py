"""Reading prompts: which rows are usable, why others are not, and what an id and a split hang on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.project import Project

from orchestrator.config.schema import PromptSource
from orchestrator.prompts.sources import RawPrompt, RejectedRow, read_probes, screen


def rows(project: Project, *items: Any, **source: Any) -> tuple[list[RawPrompt], list[RejectedRow]]:
    """The rows screened from a JSONL file, as the source `med`."""
    path = project.rows("rows.jsonl", *items)
    return screened(path, **source)


def screened(path: Path | str, **source: Any) -> tuple[list[RawPrompt], list[RejectedRow]]:
    """The usable and the rejected rows of a file, as the source `med`."""
    found = screen("med", PromptSource(path=str(path), **source))
    return found.prompts, found.rejected


def only(project: Project, item: Any, **source: Any) -> RawPrompt:
    [prompt], bad = rows(project, item, **source)
    assert not bad
    return prompt


# What is rejected --------------------------------------------------------------------------------------------

KNOWN = "messages, conversations, prompt, instruction, question, text"
REASONS: dict[str, tuple[Any, str]] = {
    "not JSON": ("{'prompt': 'single quotes'}", "is not JSON"),
    "a list": (["the fever"], "is list, not an object"),
    "a number": ("17", "is int, not an object"),
    "null": ("null", "is NoneType, not an object"),
    "no prompt": ({"id": 1, "q": "the fever"}, f"has none of the columns {KNOWN}, but 'q'"),
    "prompt of null": ({"prompt": None}, f"has none of the columns {KNOWN}, but nothing"),
    "prompt not text": ({"prompt": 5}, "'prompt' is int, not text"),
    "prompt a list": ({"prompt": ["the"]}, "'prompt' is not a list of messages"),
    "prompt an object": ({"prompt": {}}, "'prompt' is dict, not text"),
    "prompt empty": ({"prompt": ""}, "'prompt' is empty"),
    "prompt of blanks": ({"prompt": " \n\t"}, "'prompt' is empty"),
    "messages not a list": ({"messages": "the fever"}, "'messages' is text, not a list of messages"),
    "messages empty": ({"messages": []}, "'messages' is not a list of messages"),
    "messages of text": ({"messages": ["the fever"]}, "'messages' is not a list of messages"),
    "bad messages beside a prompt": ({"prompt": "the", "messages": {}}, "'messages' is not a list of messages"),
    "answer not text": ({"prompt": "the", "answer": 5}, "'answer' is int, not text"),
    "split unknown": ({"prompt": "the", "split": "test"}, "'split' is 'test', not train or heldout"),
    "split not text": ({"prompt": "the", "split": ["train"]}, "'split' is ['train'], not train or heldout"),
    "domain empty": ({"prompt": "the", "domain": ""}, "'domain' is neither a name nor a list of names"),
    "domain a number": ({"prompt": "the", "domain": 5}, "'domain' is neither a name nor a list of names"),
    "domains none": ({"prompt": "the", "domain": []}, "'domain' is neither a name nor a list of names"),
    "domains mixed": ({"prompt": "the", "domain": ["a", 5]}, "'domain' is neither a name nor a list of names"),
}


@pytest.mark.parametrize(("row", "reason"), REASONS.values(), ids=REASONS)
def test_a_broken_row_is_rejected_with_its_reason(project: Project, row: Any, reason: str) -> None:
    good, bad = rows(project, {"prompt": "before"}, row, {"prompt": "after"})
    assert [p.prompt for p in good] == ["before", "after"]
    assert [(b.source, b.row, b.reason) for b in bad] == [("med", 1, reason)]


def test_a_row_rejected_keeps_its_own_id(project: Project) -> None:
    _, bad = rows(project, {"id": 7, "prompt": ""}, {"prompt": ""})
    assert [b.id for b in bad] == ["7", None]


def test_fields_by_other_names_are_named_in_reasons(project: Project) -> None:
    _, bad = rows(project, {"prompt": "the"}, {"q": 5}, prompt_field="q", messages_field="chat")
    assert [b.reason for b in bad] == ["has neither 'chat' nor 'q'", "'q' is int, not text"]


def test_duplicates_are_rejected_and_the_first_stays(project: Project) -> None:
    good, bad = rows(
        project, {"id": 1, "prompt": "first"}, {"id": "1", "prompt": "second"}, {"prompt": "same"}, {"prompt": "same"}
    )
    assert [p.prompt for p in good] == ["first", "same"]
    assert [b.row for b in bad] == [1, 3] and all("repeats the id" in b.reason for b in bad)


def test_bytes_that_are_not_utf8_are_not_captured(project: Project) -> None:
    path = project.folder / "latin.jsonl"
    path.write_bytes('{"prompt": "café"}\n{"prompt": "the fever"}\n'.encode("latin-1"))
    good, bad = screened(path)
    assert [p.prompt for p in good] == ["the fever"] and len(bad) == 1


def test_a_byte_order_mark_costs_no_row(project: Project) -> None:
    path = project.folder / "bom.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "first"}\n{"prompt": "second"}\n')
    assert [p.prompt for p in screened(path)[0]] == ["first", "second"]


# What a row says ----------------------------------------------------------------------------------------------


def test_a_row_of_text(project: Project) -> None:
    row = {"id": "a", "prompt": "the fever", "answer": "is high", "domain": "tax", "split": "heldout", "more": 1}
    assert only(project, row) == RawPrompt("med/a", "med", ("tax",), "heldout", "the fever", None, "is high")


def test_a_row_of_chat(project: Project) -> None:
    messages = [{"role": "user", "content": "the fever"}]
    prompt = only(project, {"messages": messages})
    assert (prompt.messages, prompt.prompt) == (messages, None)


def test_an_empty_answer_is_none(project: Project) -> None:
    assert only(project, {"prompt": "the", "answer": ""}).answer is None


@pytest.mark.parametrize(("domain", "domains"), [("tax", ("tax",)), (["b", "a", "b"], ("a", "b")), (["med"], ("med",))])
def test_domains(project: Project, domain: Any, domains: tuple[str, ...]) -> None:
    assert only(project, {"prompt": "the", "domain": domain}).domains == domains


def test_without_a_domain_the_name_of_the_source(project: Project) -> None:
    assert only(project, {"prompt": "the"}).domains == ("med",)


def test_other_fields(project: Project) -> None:
    prompt = only(project, {"q": "the", "a": "fever", "prompt": "no"}, prompt_field="q", answer_field="a")
    assert (prompt.prompt, prompt.answer) == ("the", "fever")


def test_limit_counts_rows_read(project: Project) -> None:
    good, bad = rows(project, {"prompt": "1"}, "{", {"prompt": "3"}, {"prompt": "4"}, limit=3)
    assert [p.prompt for p in good] == ["1", "3"] and len(bad) == 1


def test_blank_lines_are_not_rows(project: Project) -> None:
    good, bad = rows(project, {"prompt": "1"}, "", "   ", {"prompt": "2"}, "{")
    assert len(good) == 2 and [b.row for b in bad] == [2]


# Kinds of sources ---------------------------------------------------------------------------------------------


def parquet(project: Project, table: dict[str, Any]) -> tuple[list[RawPrompt], list[RejectedRow]]:
    path = project.folder / "rows.parquet"
    pq.write_table(pa.table(table), path)
    return screened(path)


def test_parquet(project: Project) -> None:
    messages = [[{"role": "user", "content": "the fever"}], None, None]
    good, bad = parquet(
        project,
        {"id": [1, 2, 3], "prompt": [None, "the rule", None], "messages": messages, "answer": [None, "is", "x"]},
    )
    assert [(p.id, p.prompt, p.answer) for p in good] == [("med/1", None, None), ("med/2", "the rule", "is")]
    assert good[0].messages == messages[0]
    assert [(b.row, b.id) for b in bad] == [(2, "3")]


def test_a_domain_of_null_is_no_domain(project: Project) -> None:
    good, _ = parquet(project, {"prompt": ["the", "rule"], "domain": ["tax", None]})
    assert [p.domains for p in good] == [("tax",), ("med",)]


def test_the_same_rows_have_the_same_ids_in_any_kind_of_file(project: Project) -> None:
    items = [{"prompt": f"the fever {i}"} for i in range(20)]
    from_json = [p.id for p in rows(project, *items)[0]]
    assert [p.id for p in parquet(project, {"prompt": [i["prompt"] for i in items]})[0]] == from_json


def test_a_folder_of_files_named_by_split(project: Project) -> None:
    project.rows("questions/train.jsonl", *({"prompt": f"the fever {i}", "id": str(i)} for i in range(5)))
    project.rows("questions/test.jsonl", {"prompt": "the rule", "id": "t"})
    where = str(project.folder / "questions")
    good, bad = screened(where, limit=3)
    assert [p.id for p in good] == ["med/0", "med/1", "med/2"] and not bad
    test, _ = screened(where, dataset_split="test")
    assert [p.prompt for p in test] == ["the rule"]
    with pytest.raises(ValueError, match=r"nothing.* test, train; set dataset_split"):
        screened(where, dataset_split="nothing")


@pytest.mark.parametrize("path", ["no.jsonl", "no.parquet", "/no/such/file", "acme/no-such-dataset"])
def test_a_source_that_is_not_there(path: str) -> None:
    with pytest.raises(ValueError, match="no"):
        screen("med", PromptSource(path=path))


def test_probes_keep_their_order(project: Project) -> None:
    probes = [{"domain": d, "prompt": f"the {d}", "answer": "fever"} for d in ("b", "a", "b")]
    assert read_probes(str(project.rows("probes.jsonl", *probes))) == probes


# Ids ----------------------------------------------------------------------------------------------------------


def test_ids_hang_on_the_content_where_there_is_none(project: Project) -> None:
    same = only(project, {"prompt": "the fever", "note": 1})
    assert same.id == only(project, {"note": 2, "prompt": "the fever"}).id
    others = [
        {"prompt": "the fever", "answer": "a"},
        {"messages": [{"role": "user", "content": "the fever"}]},
        {"prompt": "the rule"},
    ]
    assert len({same.id, *(only(project, o).id for o in others)}) == 4


def test_ids_of_two_sources_never_meet(project: Project) -> None:
    path = str(project.rows("rows.jsonl", {"id": 1, "prompt": "the"}))
    assert {screen(n, PromptSource(path=path)).prompts[0].id for n in ("a", "b")} == {"a/1", "b/1"}


def test_a_screened_file_may_be_gone(project: Project, tmp_path: Path) -> None:
    """Nothing of the file stays open or is read later."""
    items = [{"prompt": f"question {i}"} for i in range(3)]
    good, _ = rows(project, *items)
    (tmp_path / "rows.jsonl").unlink()
    assert [p.prompt for p in good] == [r["prompt"] for r in items]
