"""How wide the 95 % interval of a held-out KL is, by the number of texts and their length.

python tests/benchmarks/intervals.py --model FOLDER --prompts FILE [FILE ...]
    [--texts 140] [--answer 128] [--tokens 16000] [--dropped 4] [--lr 2e-4]

The teacher is the model; it answers the first tokens of held-out prompts of each file at temperature 1, and its hidden
states are captured, as a run does. The student is the model without some layers around its middle, before and after it
was trained on other prompts (the product's losses and batches, `systematic` targets). A domain's KL is sum(s) / sum(m)
over its texts, of s nats on m tokens, so its relative standard error at n texts is c / sqrt(n), with
c = sd(s - KL m) / (mean(m) KL), and an interval of +-2 % takes n = (1.96 c / .02)^2 texts. Answers cut at fewer tokens
say what shorter ones take. Twenty minutes on two quiet cores. Without a model (`make bench` has none) there is nothing
to measure.

Seen of SmolLM2-135M and 4 of its 30 layers left out, after 8,000 tokens (KL .46 to .64), 50 or 60 texts a domain
(--texts 60 --answer 96 --tokens 8000, 8 minutes): c at answers of 96 tokens is .15 (legal), .23 (medical) and .24
(code), which makes 230, 510 and 550 texts for 2 %; at 48 tokens 400, 770 and 1,130; untrained 270 to 510 at 96.
`evaluate.heldout.max_texts` is 500: 1.3 to 2.1 % at 96 tokens, 1.8 to 3.0 % at 48.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from pathlib import Path
from typing import Any

os.environ |= {"DS_ACCELERATOR": "cpu", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

import numpy as np
import torch
from students_bench.arms import ARMS, Course, hidden, train
from targets_bench.distributions import Scored
from targets_bench.tables import show
from targets_bench.texts import read_texts

from workers.evaluation.metrics.resampling import bootstrap_interval
from workers.student.models.dropped_layers import drop_layers
from workers.targets.encoding.schema import StoreHeader
from workers.targets.heads import TeacherHead, head_of_folder
from workers.targets.reader import TargetRow, rows_of
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.engines.transformers_engine import TransformersEngine

_FIGURES = ("texts", "tokens", "kl", "bootstrap_half", "c", "texts_for_2")
_PROMPT, _LONGEST = 96, 256
"""Tokens of a held-out prompt, and of a text to learn from."""


def main() -> None:
    """Print a table, and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--prompts", type=Path, nargs="+", default=[])
    parser.add_argument("--texts", type=int, default=140, help="held-out texts of a file; half of it where it has less")
    parser.add_argument("--answer", type=int, default=128, help="most tokens of an answer")
    parser.add_argument("--tokens", type=int, default=16_000, help="target tokens of the student")
    parser.add_argument("--dropped", type=int, default=4, help="layers that the student has not")
    parser.add_argument("--lr", type=float, default=2e-4)
    args = parser.parse_args()
    if args.model is None or not args.prompts:
        print("intervals.py: give --model and --prompts; nothing was measured\n{}")
        return
    torch.set_num_threads(os.cpu_count() or 1)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    asked, learned = {}, []
    for file in args.prompts:
        _, texts = read_texts(tokenizer, [file], 10**9)
        n = min(args.texts, len(texts) // 2)
        asked[file.stem], rest = texts[:n], texts[n:]
        learned += [(i / len(rest), text) for i, text in enumerate(rest)]  # the files in equal parts of each
    rows = {domain: answers(args, len(tokenizer), texts) for domain, texts in asked.items()}
    teacher = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    course = to_learn_from([text for _, text in sorted(learned, key=lambda t: t[0])], args.tokens)
    scored = Scored(teacher, teacher, len(tokenizer), course)
    student = student_of(args, course)
    head = head_of_folder(args.model, "float32", len(tokenizer)).on("cpu")
    stages = {"initial": copy.deepcopy(student), "trained": student}
    arm = ARMS["systematic 21"]
    train(student, arm, Course(arm, scored, tokenizer, 0), args.tokens, args.lr)
    report({stage: {d: kls(model.eval(), head, r) for d, r in rows.items()} for stage, model in stages.items()}, args)


def answers(args: argparse.Namespace, vocabulary: int, texts: list[TextRequest]) -> list[TargetRow]:
    """Held-out rows: what the teacher answers, with its hidden states."""
    header = StoreHeader("hidden", 1, "answer", "float32", vocabulary, "", "", 0)
    engine = TransformersEngine(TeacherConfig(model=str(args.model), dtype="float32"))
    requests = [
        TextRequest(t.prompt_uid, 0, t.prompt_token_ids[:_PROMPT], None, max_new_tokens=args.answer) for t in texts
    ]
    rows = rows_of(engine.run(requests, CaptureSpec.of(header, ())), header, "teacher")
    print(f"{len(rows)} texts, {sum(r.targets for r in rows)} tokens", flush=True)
    return rows


def student_of(args: argparse.Namespace, texts: list[TextRequest]) -> Any:
    """The teacher without every second layer around its middle."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    first = len(model.get_decoder().layers) // 2 - args.dropped + 1
    with torch.no_grad():
        drop_layers(model, [first + 2 * i for i in range(args.dropped)], [texts[0].prompt_token_ids])
    return model


def to_learn_from(texts: list[TextRequest], tokens: int) -> list[TextRequest]:
    """The beginnings of so many texts that they have so many target tokens."""
    course: list[TextRequest] = []
    for text in texts:
        if tokens <= 0:
            break
        del text.prompt_token_ids[_LONGEST:]
        course.append(text)
        tokens -= len(text.prompt_token_ids) - 1
    return course


@torch.no_grad()
def kls(model: Any, head: TeacherHead, rows: list[TargetRow]) -> list[np.ndarray]:
    """KL(teacher || model) at each target position of each row, in nats."""
    found = []
    for row in rows:
        assert row.hidden is not None
        logt_TV = head.log_probabilities(row.hidden, "float32")
        h_TD = hidden(model, row.tokens[:-1].tolist())[row.start - 1 :]
        logq_TV = model.lm_head(h_TD)[:, : logt_TV.shape[1]].log_softmax(-1)
        found.append((logt_TV.exp() * (logt_TV - logq_TV)).sum(-1).double().numpy())
    print(f"KL {sum(k.sum() for k in found) / sum(len(k) for k in found):.4f} on {len(rows)} texts", flush=True)
    return found


def report(found: dict[str, dict[str, list[np.ndarray]]], args: argparse.Namespace) -> None:
    """Texts that intervals of 2 % take, by student, domain and length of the answers."""
    rows, figures = [], {}
    for stage, domains in found.items():
        for domain, texts in domains.items():
            for most in sorted({args.answer // 4, args.answer // 2, args.answer}):
                sums_P = np.array([text[:most].sum() for text in texts])
                tokens_P = np.array([len(text[:most]) for text in texts], float)
                kl = sums_P.sum() / tokens_P.sum()
                c = float(np.std(sums_P - kl * tokens_P, ddof=1) / (tokens_P.mean() * kl))
                low, high = bootstrap_interval(sums_P, tokens_P, 1000, 0)
                wanted = round((1.96 * c / 0.02) ** 2)
                half = (high - low) / 2 / kl
                name, values = f"{stage} {domain} {most}", (len(texts), tokens_P.mean(), kl, half, c, wanted)
                rows.append([name, *values])
                figures[name] = dict(zip(_FIGURES, values, strict=True))
    columns = ["student, domain, most tokens", "texts", "tokens each", "KL", "+- (bootstrap)", "c", "texts for 2 %"]
    show("95 % intervals of held-out KL", columns, rows)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
