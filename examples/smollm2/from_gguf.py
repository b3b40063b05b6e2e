"""Turn a GGUF file of SmolLM2 (or another Llama model) into a plain Hugging Face folder.

    python from_gguf.py SmolLM2-135M-Instruct.Q4_1.gguf ./smollm2

For machines that have the GGUF file but cannot reach the model hub. The weights stay what the file
holds: a 4-bit file gives 4-bit precision written as float32.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

# Everyday English; a sane small model reads it at a perplexity of roughly 10-30, a wrongly
# converted one (permuted heads, wrong rope base, wrong tokenizer) at several hundreds or more.
SAMPLE = (
    "The river rises in the hills north of the town and flows slowly through farmland before it "
    "reaches the sea. In spring, when the snow melts, the water often covers the lower fields, and "
    "the farmers move their cattle to higher ground. For centuries the people who lived along its "
    "banks built their houses on small mounds of earth, so that the floods would not reach them."
)
SANE_PERPLEXITY = 60.0

# Config entries that describe where and how the GGUF file was read, not the model.
READING_ENTRIES = (
    "quantization_config",
    "_name_or_path",
    "_model_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
)


def load_gguf(file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (float32, dequantized) and tokenizer of the GGUF `file`; only the Llama architecture."""
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    if model.config.model_type != "llama":
        raise ValueError(f"{file} holds a {model.config.model_type!r} model: give the GGUF of a Llama model")
    return model, AutoTokenizer.from_pretrained(**where)


def plain_config(config: LlamaConfig) -> LlamaConfig:
    """`config` without the entries of GGUF reading: with them the saved folder would ask for the file."""
    entries = {name: value for name, value in config.to_dict().items() if name not in READING_ENTRIES}
    # GGUF stores epsilon in single precision (9.999999747378752e-06): write the number that was meant.
    entries["rms_norm_eps"] = float(f"{entries['rms_norm_eps']:.6g}")
    return LlamaConfig(**entries)


@torch.no_grad()
def perplexity(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> float:
    """exp of the mean next-token loss (nats) over `text`, the first token given."""
    tokens = tokenizer(text, return_tensors="pt").input_ids
    return math.exp(model(input_ids=tokens, labels=tokens).loss.item())


def convert(file: Path, out: Path) -> float:
    """Write `file` as a Hugging Face folder `out`; returns the perplexity of SAMPLE, read back from `out`."""
    model, tokenizer = load_gguf(file)
    plain = type(model)(plain_config(model.config))
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)
    del model, plain
    reread = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    return perplexity(reread, AutoTokenizer.from_pretrained(out), SAMPLE)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path, help="the .gguf file")
    parser.add_argument("out", type=Path, help="folder to write")
    options = parser.parse_args()
    if not options.gguf.is_file():
        raise SystemExit(f"gguf {options.gguf}: no such file; give the path of a .gguf file")
    try:
        found = convert(options.gguf, options.out)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    print(f"{options.out}: perplexity of an English paragraph {found:.1f}")
    if found > SANE_PERPLEXITY:
        raise SystemExit(
            f"perplexity {found:.1f} is above {SANE_PERPLEXITY:.0f}: the conversion is probably wrong; "
            "check that the file holds a Llama model trained on English"
        )


if __name__ == "__main__":
    main()
