"""Make a mixture-of-experts teacher from a small dense model: SmolLM2 in, Mixtral folder out.

    python make_teacher.py --prompts DIR --out teacher

Four experts a layer, two active: expert 0 is the original MLP, experts 1-3 are copies tuned briefly on
medical, legal and code text; the routers start from the domains' mean hidden states and are tuned
briefly on all three. DIR holds medical.jsonl, legal.jsonl and code.jsonl (id, prompt, reference);
see text.py for the held-out rule, whose ids go to OUT/heldout_ids.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from measure import output_difference, perplexity, weight_distance
from router import first_routers, mlp_inputs, routing_shares
from text import DOMAINS, HELDOUT_ROWS, Tokens, encode, read_rows, split_rows, stdlib_rows
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from tune import Budget, tune_mlps, tune_routers
from upcycle import Mlps, identity_error, mlps_of, put_mlps, upcycle

EXPERTS = ("general", *DOMAINS)
# Relative to the largest logit; float32 rounding alone is near 3e-6.
IDENTITY_LIMIT = 1e-5
LONGEST_MEASURED = 1024

DomainTokens = dict[str, list[Tokens]]


def prepare(
    tokenizer: PreTrainedTokenizerBase, options: argparse.Namespace
) -> tuple[DomainTokens, DomainTokens, dict[str, list[str]]]:
    """(rows to tune on, held-out rows, held-out ids) by domain.

    Code is tuned on the standard library only: every row of code.jsonl stays unseen, and the held-out
    ones are those that students must not train on either.
    """
    tuning, heldout, ids = {}, {}, {}
    for domain, rows in read_rows(options.prompts).items():
        kept, measured = split_rows(rows, options.heldout)
        ids[domain] = [row["id"] for row in measured]
        measured = measured[: options.measured]
        if domain == "code":
            # Functions of that length have some 150 tokens: ample rows, yet not thousands to encode.
            kept = stdlib_rows()[: max(200, options.tokens // 50)]
        tuning[domain] = [encode(tokenizer, row) for row in kept]
        heldout[domain] = [encode(tokenizer, row) for row in measured]
        targets = [sum(len(row.ids) - row.prompt_start for row in part[domain]) for part in (tuning, heldout)]
        cut = sum(len(row.ids) > options.longest for row in tuning[domain])
        long = sum(len(row.ids) > LONGEST_MEASURED for row in heldout[domain])
        print(
            f"{domain}: {len(kept)} rows, {targets[0]} tokens to tune on ({cut} cut at {options.longest}); "
            f"held out {len(ids[domain])} rows, of which {len(measured)} to measure on, {targets[1]} tokens "
            f"({long} cut at {LONGEST_MEASURED})"
        )
    return tuning, heldout, ids


def print_perplexities(name: str, model: PreTrainedModel, heldout: DomainTokens) -> None:
    """One line: held-out perplexity by domain, all positions and (the answer alone)."""
    found = {domain: perplexity(model, rows, LONGEST_MEASURED) for domain, rows in heldout.items()}
    cells = [f"{domain} {whole:7.2f} ({answer:6.2f})" for domain, (whole, answer) in found.items()]
    print(f"perplexity {name:<22} {'   '.join(cells)}")


def print_routing(name: str, moe: MixtralForCausalLM, heldout: DomainTokens) -> None:
    """Table experts x domains: share of top-k places and, in brackets, of gate weight, mean of layers."""
    shares = {domain: routing_shares(moe, rows) for domain, rows in heldout.items()}
    print(f"routing {name}: share of top-2 places (of gate weight), experts x domains")
    for place, expert in enumerate(EXPERTS):
        cells = [f"{d} {p[:, place].mean():.3f} ({w[:, place].mean():.3f})" for d, (p, w) in shares.items()]
        print(f"  expert {place} {expert:<8} {'   '.join(cells)}")


def check_identity(dense: LlamaForCausalLM, row: Tokens) -> None:
    """Stop unless the upcycling with identical experts computes what the dense model computes."""
    error, relative = identity_error(dense, len(EXPERTS), torch.tensor([row.ids[:256]]))
    print(f"identical experts: logits differ from the dense model's by {error:.1e}, relative {relative:.1e}")
    if not relative <= IDENTITY_LIMIT:
        raise SystemExit(
            f"relative difference {relative:.1e} is above {IDENTITY_LIMIT:.0e}: this is not a "
            "plain Llama model; give a folder of one with --dense"
        )


def make_experts(
    dense: LlamaForCausalLM, tuning: DomainTokens, heldout: DomainTokens, options: argparse.Namespace
) -> list[Mlps]:
    """The MLPs of all experts; `dense` is left as it came."""
    origin = mlps_of(dense)
    experts = [origin]
    budget = Budget(options.tokens, options.rate, longest=options.longest)
    for place, domain in enumerate(DOMAINS, 1):
        said = tune_mlps(dense, tuning[domain], budget, options.seed + place)
        print(f"expert {place} {domain}: {said}", flush=True)
        experts.append(mlps_of(dense))
        print_perplexities(f"expert {place} {domain}", dense, heldout)
        put_mlps(dense, origin)
        distance = weight_distance(experts[place], origin)
        differences = [f"{d} {output_difference(dense, experts[place], rows[:6]):.3f}" for d, rows in heldout.items()]
        print(f"expert {place} {domain}: relative distance of weights {distance:.4f}, ", end="")
        print(f"of outputs on {', '.join(differences)}", flush=True)
    return experts


def check_folder(out: Path, moe: MixtralForCausalLM, row: Tokens) -> None:
    """Stop unless the saved folder, read the ordinary way, gives the same logits and a chat template."""
    reread = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    tokens = torch.tensor([row.ids[:128]])
    with torch.no_grad():
        expected = moe(input_ids=tokens).logits
        error = ((reread(input_ids=tokens).logits - expected).abs().max() / expected.abs().max()).item()
    if error > IDENTITY_LIMIT or not AutoTokenizer.from_pretrained(out).chat_template:
        raise SystemExit(f"out {out}: what was read back differs by {error:.1e} or lacks the chat template")
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e9
    print(f"{out}: {type(reread).__name__}, {reread.num_parameters() / 1e6:.0f} M weights, {size:.2f} GB")


def make(options: argparse.Namespace) -> None:
    """All steps, in order."""
    began = time.monotonic()
    torch.manual_seed(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.dense)
    if not tokenizer.chat_template:
        raise ValueError(f"dense {options.dense}: no chat template; give an instruct model")
    dense = AutoModelForCausalLM.from_pretrained(options.dense, dtype=torch.float32).eval()
    tuning, heldout, ids = prepare(tokenizer, options)
    check_identity(dense, heldout["medical"][0])
    print_perplexities("dense (= expert 0)", dense, heldout)
    experts = make_experts(dense, tuning, heldout, options)

    inputs = [mlp_inputs(dense, tuning[domain], options.mean_tokens) for domain in DOMAINS]
    moe = upcycle(dense, experts, first_routers(inputs, options.strength))
    print_routing("of the first routers", moe, heldout)
    print_perplexities("MoE, first routers", moe, heldout)
    budget = Budget(options.router_tokens, options.router_rate, batch_tokens=1024, longest=options.longest)
    said = tune_routers(moe, list(tuning.values()), budget, options.balance, options.seed)
    print(f"routers: {said}", flush=True)
    print_routing("of the tuned routers", moe, heldout)
    print_perplexities("MoE", moe, heldout)

    moe.generation_config = dense.generation_config
    moe.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    rule = f"of each domain, the {options.heldout} rows with the smallest sha256(id)"
    listed = json.dumps({"rule": rule, "ids": ids}, indent=1)
    (options.out / "heldout_ids.json").write_text(listed + "\n", encoding="utf-8")
    check_folder(options.out, moe, heldout["code"][0])
    print(f"made in {(time.monotonic() - began) / 60:.1f} minutes")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Command line; numbers are checked here, rows and folders where they are read."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    dense = "HuggingFaceTB/SmolLM2-135M-Instruct"
    parser.add_argument("--dense", default=dense, help=f"hub name or folder of a Llama model ({dense})")
    parser.add_argument("--prompts", type=Path, required=True, help="folder of {medical,legal,code}.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--tokens", type=int, default=20_000, help="target tokens an expert (%(default)s)")
    parser.add_argument("--rate", type=float, default=2e-4, help="learning rate of MLPs (%(default)s)")
    parser.add_argument("--router-tokens", type=int, default=10_000, help="for the routers (%(default)s)")
    parser.add_argument("--router-rate", type=float, default=1e-3, help="of the routers (%(default)s)")
    parser.add_argument("--balance", type=float, default=0.01, help="weight of load balancing (%(default)s)")
    parser.add_argument("--strength", type=float, default=2.0, help="first routers' mean logit (%(default)s)")
    parser.add_argument("--mean-tokens", type=int, default=4_000, help="for first routers (%(default)s)")
    parser.add_argument("--heldout", type=int, default=HELDOUT_ROWS, help="rows a domain (%(default)s)")
    parser.add_argument("--measured", type=int, default=16, help="of these, to measure on (%(default)s)")
    parser.add_argument("--longest", type=int, default=512, help="cut tuning rows here (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: as torch finds)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    above_0 = "tokens rate router_tokens router_rate strength mean_tokens measured longest"
    for name in above_0.split():
        if getattr(options, name) <= 0:
            raise SystemExit(f"--{name.replace('_', '-')} {getattr(options, name)}: give a number above 0")
    if options.threads > 0:
        torch.set_num_threads(options.threads)
    return options


def main() -> None:
    """Command line; what a user can put right ends as one line, not as a traceback."""
    try:
        make(parse(sys.argv[1:]))
    except ValueError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
