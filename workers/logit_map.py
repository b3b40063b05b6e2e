"""What an architecture does to the product of its last hidden state and its LM head. Teachers and students share it."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workers.sources import classes, package_folder

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LogitMap:
    """Logits are cap * tanh(scale * z / cap), of the product z of hidden state and head; scale * z without a cap."""

    scale: float = 1.0
    cap: float | None = None

    def apply_(self, z_TV: Tensor) -> Tensor | None:
        """Change raw logits in place; returns the derivative where it is not just `scale`."""
        if self.scale != 1:
            z_TV.mul_(self.scale)
        if self.cap is None:
            return None
        slope = z_TV.div_(self.cap).tanh_().square().neg_().add_(1)
        z_TV.mul_(self.cap)
        return slope


def logit_map(config: Any) -> LogitMap:
    """What a transformers configuration says that happens to logits: Cohere multiplies them (`logit_scale`), Granite
    divides them (`logits_scaling`), Gemma caps them (`final_logit_softcapping`)."""
    multiplied = getattr(config, "logit_scale", None) or 1.0
    divided = getattr(config, "logits_scaling", None) or 1.0
    return LogitMap(multiplied / divided, getattr(config, "final_logit_softcapping", None) or None)


_SLICED = r"hidden_states\[:, slice_indices(, :)?\]|slice_logits_to_keep\(hidden_states, \w+\)"

_HEAD = re.compile(rf"self\.lm_head\((hidden_states|{_SLICED})(\.to\([\w.=]+\))?\)(\.float\(\)|\.contiguous\(\))?")

_BEFORE_HEAD = re.compile(rf"\w*outputs(\[0\]|\.last_hidden_state)|{_SLICED}")

_AFTER_HEAD = {
    "logits * self.logit_scale",
    "logits / self.config.logits_scaling",
    "logits / self.config.final_logit_softcapping",
    "torch.tanh(logits)",
    "logits * self.config.final_logit_softcapping",
}
"""What forward passes of transformers do to logits that `logit_map` knows."""


def head_is_known(model_config: dict[str, Any]) -> bool:
    """Whether the class of a model in the installed transformers, by its config.json, has a matrix for a head and makes
    logits of its body's last hidden states by that and by what `logit_map` knows. Reads source files and loads nothing
    (the engine tries it on numbers). False where the class is not found."""
    name, package = next(iter(model_config.get("architectures") or ()), None), package_folder("transformers")
    kind = str(model_config.get("model_type", "")).replace("-", "_")
    if package is None or not kind:
        return False
    folders = [package / "models" / kind.rsplit("_", cut)[0] for cut in range(kind.count("_") + 1)]
    files = next((files for f in folders if (files := sorted(f.glob("modeling_*.py")))), [])  # gemma3 of gemma3_text
    body = [node for path in files for c in classes(path) if c.name == name for node in c.body]
    methods = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    if not {"__init__", "forward"} <= methods.keys():
        return False
    own, values = _assigned(methods["__init__"]), _assigned(methods["forward"])
    logits = [value for where, value in values if where.endswith("logits") and "router" not in where]
    heads = [value for value in logits if _HEAD.fullmatch(value)]
    return (
        any(where == "self.lm_head" and value.startswith("nn.Linear(") for where, value in own)
        and len(heads) == 1
        and set(logits) - set(heads) <= _AFTER_HEAD
        and all(_BEFORE_HEAD.fullmatch(value) for where, value in values if where == "hidden_states")
    )


def _assigned(method: ast.AST) -> list[tuple[str, str]]:
    """What a method assigns to what, as source text."""
    return [
        (ast.unparse(target), ast.unparse(statement.value))
        for statement in ast.walk(method)
        if isinstance(statement, ast.Assign)
        for target in statement.targets
    ]
