"""Write Stillhouse prompt files from the user's prompt files.

    python prepare_prompts.py DIR OUT              # after make_teacher.py, whose `moe` has the tokenizer

DIR holds medical.jsonl, legal.jsonl and code.jsonl (id, prompt, reference). OUT gets the same names,
rows {"id", "domain", "messages", "answer"?, "split"?}: most rows carry the known answer, to be scored by
the teacher; some carry none, to be answered by it; the held-out rows (the rule of text.py, the same
that make_teacher.py excludes from tuning) carry "split": "heldout" and no answer. HumanEval is small,
so code gets functions of Python's standard library besides. No row is cut or left out for its length.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from text import DOMAINS, HELDOUT_ROWS, Row, Tokens, encode, id_hash, read_rows, split_rows, stdlib_rows
from transformers import AutoTokenizer, PreTrainedTokenizerBase

# Short functions: most must fit into the sequence length of the run, with room for the chat template.
STDLIB_CHARACTERS = 1200


def without_answer(rows: list[Row], share: float) -> set[str]:
    """Ids of the `share` of `rows` that the teacher is to answer: the smallest hashes."""
    return {row["id"] for row in sorted(rows, key=id_hash)[: round(share * len(rows))]}


def prompt_rows(domain: str, kept: list[Row], heldout: list[Row], share: float) -> list[Row]:
    """Stillhouse rows of one domain: the held-out ones, then those to distil from in order."""
    open_ids = without_answer(kept, share)
    rows = []
    for row in kept:
        written = {"id": row["id"], "domain": domain, "messages": messages(row)}
        if row["id"] not in open_ids:
            written["answer"] = row["reference"]
        rows.append(written)
    held = [{"id": r["id"], "domain": domain, "messages": messages(r), "split": "heldout"} for r in heldout]
    return held + rows


def messages(row: Row) -> list[dict[str, str]]:
    """The chat that asks for a row's answer; the teacher was tuned on text in its tokenizer's template."""
    return [{"role": "user", "content": row["prompt"]}]


def count(tokenizer: PreTrainedTokenizerBase, rows: list[Row], longest: int) -> dict[str, int]:
    """Rows and target tokens (after the system message) of rows to distil from.

    Rows that pass `longest` tokens in the chat template are counted apart and add no tokens; rows
    without an answer add their prompt only, since what the teacher will write is not known yet.
    """
    counts = dict.fromkeys(("scored", "generated", "longer", "all", "answers"), 0)
    for row in rows:
        tokens: Tokens = encode(
            tokenizer, {"id": row["id"], "prompt": row["messages"][0]["content"], "reference": row.get("answer", "")}
        )
        if len(tokens.ids) > longest:
            counts["longer"] += 1
            continue
        counts["scored" if "answer" in row else "generated"] += 1
        if "answer" in row:
            counts["all"] += len(tokens.ids) - tokens.prompt_start
            counts["answers"] += len(tokens.ids) - tokens.answer_start
        else:
            counts["all"] += tokens.answer_start - tokens.prompt_start
    return counts


def prepare(options: argparse.Namespace) -> None:
    """Write the files and print one line a domain."""
    if not 0 <= options.generate < 1:
        raise ValueError(f"--generate {options.generate}: give a share of rows from 0 to below 1")
    if options.stdlib_rows < 0:
        raise ValueError(f"--stdlib-rows {options.stdlib_rows}: give 0 or more rows")
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    options.out.mkdir(parents=True, exist_ok=True)
    given = read_rows(options.dir)
    for domain in DOMAINS:
        kept, heldout = split_rows(given[domain], options.heldout)
        dropped = len(given[domain]) - len(kept) - len(heldout)
        if domain == "code" and options.stdlib_rows:
            # From the far end of the order: make_teacher.py tunes on the near end.
            kept = kept + stdlib_rows(STDLIB_CHARACTERS)[-options.stdlib_rows :]
        rows = prompt_rows(domain, kept, heldout, options.generate)
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (options.out / f"{domain}.jsonl").write_text("".join(lines), encoding="utf-8")
        found = count(tokenizer, [row for row in rows if "split" not in row], options.longest)
        print(
            f"{domain}: {len(rows)} rows, {len(heldout)} held out, {dropped} dropped (passage of a held-out "
            f"row); of the rest {found['scored']} with answer, {found['generated']} to be answered, "
            f"{found['longer']} longer than {options.longest} tokens; target tokens an epoch: "
            f"{found['all']} (all positions), {found['answers']} (given answers alone)"
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=Path, help="folder of {medical,legal,code}.jsonl")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--tokenizer", default="moe", help="folder or hub name, to count tokens (%(default)s)")
    parser.add_argument("--heldout", type=int, default=HELDOUT_ROWS, help="rows a domain (%(default)s)")
    parser.add_argument("--generate", type=float, default=0.18, help="share without answer (%(default)s)")
    parser.add_argument("--stdlib-rows", type=int, default=150, help="more code rows (%(default)s)")
    parser.add_argument("--longest", type=int, default=384, help="counts only: tokens a row (%(default)s)")
    options = parser.parse_args()
    try:
        prepare(options)
    except ValueError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
