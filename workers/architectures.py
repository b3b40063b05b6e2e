"""What an architecture of the installed transformers can be told in its configuration, read from its source files.
Imports none of them: a configuration class loads in seconds, and checks must answer in less than one.

Where a class cannot be found for certain, nothing is said of it.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from workers.sources import annotated_fields, assigned, classes, package_folder, parsed, plain_types

_COMMON_CODE = ("modeling_rope_utils.py", "masking_utils.py")

_READ = re.compile(r"""\bconfig\.([a-z]\w*)|getattr\(\s*(?:self\.)?config,\s*["']([a-z]\w*)["']""")

_OF_PROGRAMS = {"ignore_keys_at_rope_validation", "kwargs"}
"""What classes set on themselves, and no file says."""


@dataclass(frozen=True)
class Architecture:
    """What is known of a configuration class."""

    keys: frozenset[str]
    """Names that a configuration may have."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Values of those that are plain constants."""
    types: dict[str, tuple[type, ...]] = field(default_factory=dict)
    """Python types that a value may have, of those whose annotation is plain."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Usual names (`hidden_size`) and what the class calls them (`n_embd`)."""

    def value(self, config: dict[str, Any], name: str) -> Any:
        """A setting of a configuration by its usual name, or the class's default; None where there is neither."""
        own = self.aliases.get(name, name)
        for said in (config, self.defaults):
            if name in said or own in said:
                return said.get(name, said.get(own))
        return None


def configuration_keys(model_type: str) -> frozenset[str] | None:
    """Names that a configuration of a model type may have; None where its class is not found for certain."""
    found = architecture(model_type)
    return found.keys if found is not None else None


@lru_cache
def architecture(model_type: str) -> Architecture | None:
    """What is known of a model type; None where its class is not found for certain."""
    package = package_folder("transformers")
    if package is None or not (chain := _class_chain(package, model_type)):
        return None
    keys: set[str] = {"model_type", *_read_by_models(package, chain[0][0].parent)}
    defaults: dict[str, Any] = {}
    types: dict[str, tuple[type, ...]] = {}
    aliases: dict[str, str] = {}
    for _, node in reversed(chain):  # a class has the last word over its bases
        keys |= _keys_of(node)
        for name, annotation, value in annotated_fields(node):
            keys.add(name)
            defaults.pop(name, None)
            if isinstance(value, ast.Constant):
                defaults[name] = value.value
            if (allowed := plain_types(annotation)) is not None:
                types[name] = allowed
            else:
                types.pop(name, None)
        aliases |= _aliases_of(node)
    return Architecture(frozenset(keys | aliases.keys() | set(aliases.values())), defaults, types, aliases)


def activations() -> frozenset[str]:
    """Names of the activations that transformers knows; empty where its list is not found."""
    return _listed("activations.py", "ACT2CLS")


def rope_types() -> frozenset[str]:
    """Kinds of rotary positions that transformers knows; empty where its list is not found."""
    known = _listed("modeling_rope_utils.py", "ROPE_INIT_FUNCTIONS")
    return known | {"default"} if known else known


def layer_types() -> frozenset[str]:
    """Kinds of layers that transformers knows, by their former names too; empty where its list is not found."""
    known = _listed("configuration_utils.py", "ALLOWED_ATTN_LAYER_TYPES")
    return known | _listed("configuration_utils.py", "_LEGACY_LAYER_TYPE_REMAP") if known else known


@lru_cache
def _listed(file: str, name: str) -> frozenset[str]:
    """The keys or entries of a constant of transformers."""
    package = package_folder("transformers")
    path = package / file if package else None
    value = assigned(parsed(path), name) if path and path.exists() else None
    entries = value.keys if isinstance(value, ast.Dict) else value.elts if isinstance(value, ast.Tuple) else []
    return frozenset(str(entry.value) for entry in entries if isinstance(entry, ast.Constant))


def _class_chain(package: Path, model_type: str) -> list[tuple[Path, ast.ClassDef]]:
    """The configuration class of a model type and its bases, itself first; empty where one of them is not found."""
    for files in _candidates(package, model_type):
        named = [(path, c) for path in files for c in classes(path) if _model_type_of(c) == model_type]
        if len(named) == 1:
            return _with_bases(package, *named[0])
        if named:
            return []
    return []


def _candidates(package: Path, model_type: str) -> list[list[Path]]:
    """Where a model type may be: the folder of its name, those of its beginnings (gemma3 of gemma3_text), then all
    files that name it."""
    name = model_type.replace("-", "_")
    beginnings = [name.rsplit("_", cut)[0] for cut in range(name.count("_") + 1)]
    folders = [sorted((package / "models" / b).glob("configuration_*.py")) for b in dict.fromkeys([name, *beginnings])]
    found = [files for files in folders if files]
    written = re.compile(rf"""model_type\s*(?::[^=]*)?=\s*["']{re.escape(model_type)}["']""")
    if any(written.search(p.read_text(encoding="utf-8")) for files in found for p in files):
        return found
    everywhere = sorted((package / "models").glob("*/configuration_*.py"))
    return [[p for p in everywhere if written.search(p.read_text(encoding="utf-8"))]]


def _with_bases(package: Path, path: Path, node: ast.ClassDef) -> list[tuple[Path, ast.ClassDef]]:
    chain, queue = [], [(path, node)]
    while queue:
        path, node = queue.pop(0)
        chain.append((path, node))
        for base in node.bases:
            found = _find_class(package, path, base.id) if isinstance(base, ast.Name) else None
            if found is not None:
                queue.append(found)
            elif path != package / "configuration_utils.py":  # the root's mixins have no settings
                return []
    return chain


def _find_class(package: Path, path: Path, name: str) -> tuple[Path, ast.ClassDef] | None:
    """A class of a module, or the one that it imports by that name from another module of the package."""
    for node in classes(path):
        if node.name == name:
            return path, node
    for statement in parsed(path).body:
        if not isinstance(statement, ast.ImportFrom) or not statement.module or not statement.level:
            continue
        if name in [alias.asname or alias.name for alias in statement.names]:
            folder = path.parents[statement.level - 1].joinpath(*statement.module.split("."))
            for module in (folder.with_suffix(".py"), folder / f"configuration_{folder.name}.py"):
                if module.exists() and module != path and (found := _find_class(package, module, name)):
                    return found
    return None


def _keys_of(node: ast.ClassDef) -> set[str]:
    """What a class's methods take, read from their keyword arguments, and set on themselves."""
    keys: set[str] = set()
    for method in (n for n in node.body if isinstance(n, ast.FunctionDef)):
        if method.name == "__init__":
            keys |= {a.arg for a in [*method.args.args, *method.args.kwonlyargs]} - {"self"}
        if any(isinstance(d, ast.Attribute) and d.attr == "setter" for d in method.decorator_list):
            keys.add(method.name)
        for inner in ast.walk(method):
            if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.args:
                of = inner.func.value
                taken = isinstance(of, ast.Name) and of.id == "kwargs" and inner.func.attr in ("pop", "get")
                if taken and method.name.startswith(("__", "convert_")):  # others take what loads a file
                    keys |= {str(a.value) for a in inner.args[:1] if isinstance(a, ast.Constant)}
            elif isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                keys |= {inner.attr} if isinstance(inner.value, ast.Name) and inner.value.id == "self" else set()
    return {key for key in keys if not key.startswith("_") and key not in _OF_PROGRAMS}


def _read_by_models(package: Path, folder: Path) -> set[str]:
    """What the code of models reads of a configuration, declared or not: Qwen2 takes a head_dim that its class has
    not."""
    files = [*sorted(folder.glob("modeling_*.py")), *(package / name for name in _COMMON_CODE)]
    texts = (path.read_text(encoding="utf-8") for path in files if path.exists())
    return {name or other for text in texts for name, other in _READ.findall(text)}


def _model_type_of(node: ast.ClassDef) -> str | None:
    value = assigned(node, "model_type")
    return str(value.value) if isinstance(value, ast.Constant) else None


def _aliases_of(node: ast.ClassDef) -> dict[str, str]:
    value = assigned(node, "attribute_map")
    if not isinstance(value, ast.Dict):
        return {}
    pairs = zip(value.keys, value.values, strict=True)
    return {str(k.value): str(v.value) for k, v in pairs if isinstance(k, ast.Constant) and isinstance(v, ast.Constant)}
