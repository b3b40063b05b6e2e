"""From YAML to a RunConfig: short forms, defaults, --set, round trips, paths, and the words of its errors."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.small_configuration import put, refused, small

from orchestrator.config.loading import ConfigFile, dump, load_config, validate
from orchestrator.config.schema import RunConfig
from workers.evaluation.config import HeldoutConfig


def read(tmp_path: Path, text: str, *sets: str) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_config(path, list(sets)).config


def with_sets(tmp_path: Path, *sets: str, data: dict[str, Any] | None = None) -> RunConfig:
    return read(tmp_path, yaml.safe_dump(data or small()), *sets)


# Unknown keys -------------------------------------------------------------------------------------------------

TYPOS = {
    "stroage": "storage",
    "teecher": "teacher",
    "default": "defaults",
    "teacher.modle": "model",
    "teacher.ep_sise": "ep_size",
    "teacher.sampling.tempreture": "temperature",
    "prompts.medical.pth": "path",
    "prompts.medical.sampling.topp": "top_p",
    "targets.shceme": "scheme",
    "specialists.medical.trian": "train",
    "specialists.medical.model.bas": "base",
    "specialists.medical.loss.divergense": "divergence",
    "specialists.medical.train.batch_token": "batch_tokens",
    "evaluate.held_out": "heldout",
    "cluster.adress": "address",
    "domains.medical.sampling.temperture": "temperature",
    "answers.duplicate": "duplicates",
}


@pytest.mark.parametrize(("where", "meant"), TYPOS.items(), ids=TYPOS)
def test_unknown_key_is_named_with_the_nearest_known_one(where: str, meant: str) -> None:
    lines = refused(put(where, 1)).splitlines()
    assert f"{where}: unknown key; did you mean {meant!r}?" in lines


def test_unknown_key_with_nothing_near_lists_what_is_known() -> None:
    message = refused(put("specialists.medical.texts.zzzzzz", 1))
    assert (
        message == "specialists.medical.texts.zzzzzz: unknown key; known here: mask_prompts, max_tokens, long, overlap"
    )


def test_all_faults_are_told_at_once() -> None:
    lines = refused(small(seed=-1, evaluate={"heldout": 2}, targets={"drawz": 3})).splitlines()
    assert sorted(line.split(":")[0] for line in lines) == ["evaluate.heldout", "seed", "targets.drawz"]


def test_a_fault_names_the_value() -> None:
    assert "(got -3)" in refused(put("specialists.medical.train.tokens", -3))


def test_missing_keys_are_named() -> None:
    data = small()
    del data["name"], data["specialists"]["medical"]["model"]
    assert refused(data).splitlines() == ["name: is required", "specialists.medical.model: is required"]


# defaults -----------------------------------------------------------------------------------------------------


def test_defaults_are_merged_deep_and_the_specialist_wins() -> None:
    config = validate(
        small(
            defaults={"model": "acme/small", "loss": {"kl": 2}, "train": {"lr": 1e-3, "zero": 2, "betas": [0.8, 0.9]}},
            specialists={
                "plain": {"mix": {"medical": 1}},
                "own": {"mix": {"medical": 1}, "model": {"config": {"model_type": "llama"}}, "train": {"zero": 3}},
            },
        )
    )
    plain, own = config.specialists["plain"], config.specialists["own"]
    assert (plain.model.base, plain.train.zero, plain.loss.kl) == ("acme/small", 2, 2)
    assert own.model.base is None and own.model.config == {"model_type": "llama"}
    assert (own.train.zero, own.train.lr, own.train.betas, own.loss.kl) == (3, 1e-3, (0.8, 0.9), 2)


def test_a_specialist_may_be_empty_where_defaults_say_all() -> None:
    config = validate(small(defaults={"model": "acme/small"}, specialists={"medical": None}))
    assert config.specialists["medical"].model.base == "acme/small"


def test_merging_leaves_defaults_and_the_data_as_they_were() -> None:
    data = small(
        defaults={"train": {"lr": 1e-3}},
        specialists={"a": {"model": "m", "train": {"zero": 2}}, "b": {"model": "m"}},
    )
    before = copy.deepcopy(data)
    config = validate(data)
    assert data == before
    assert [s.train.zero for s in config.specialists.values()] == [2, "auto"]


@pytest.mark.parametrize("value", [3, "acme/small", ["train"]])
def test_defaults_that_are_no_mapping_are_refused(value: Any) -> None:
    assert "defaults" in refused(small(defaults=value))


# Short forms --------------------------------------------------------------------------------------------------


def test_teacher_is_the_short_form_for_one() -> None:
    data = small()
    long = small(teachers={"teacher": data["teacher"]})
    del long["teacher"]
    assert validate(data) == validate(long)


def test_teacher_and_teachers_together_are_refused() -> None:
    message = refused(small(teachers={"big": {"model": "acme/big"}}))
    assert "teacher, teachers" in message and "one of the two" in message


def test_faults_of_the_short_form_are_told_in_its_words() -> None:
    assert refused(put("teacher.batch", 0)).startswith("teacher.batch: ")


def test_a_prompt_source_may_be_a_string() -> None:
    long = small(prompts={"medical": {"path": "data/medical.jsonl"}})
    assert validate(small()) == validate(long)


def test_replicas_may_be_one_number() -> None:
    assert validate(put("teacher.replicas", 3)).teachers["teacher"].replicas == (3, 3)


# Numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [("20M", 20_000_000), ("64k", 64_000), ("1.5M", 1_500_000), ("2B", 2 * 10**9), ("1_000", 1000), ("7", 7)],
)
def test_counts(tmp_path: Path, written: str, meant: int) -> None:
    config = with_sets(tmp_path, f"specialists.medical.train.tokens={written}")
    assert config.specialists["medical"].train.tokens == meant


@pytest.mark.parametrize("written", ["20 million", "M", "-5M", "1e6M", "0x10", "20MM"])
def test_counts_that_are_none(written: str) -> None:
    message = refused(put("specialists.medical.train.tokens", written))
    assert message.startswith("specialists.medical.train.tokens: ") and written in message and "20M" in message


@pytest.mark.parametrize(("written", "meant"), [("5%", 0.05), ("0.5%", 0.005), (".25", 0.25), ("1e-2", 0.01)])
def test_shares(tmp_path: Path, written: str, meant: float) -> None:
    assert with_sets(tmp_path, f"evaluate.heldout={written}").evaluate.heldout.share == pytest.approx(meant)


@pytest.mark.parametrize("written", ["150%", "-5%", "x%", "five"])
def test_shares_that_are_none(written: str) -> None:
    assert refused(put("evaluate.heldout", written)).startswith("evaluate.heldout: ")


def test_a_share_alone_leaves_the_caps_of_held_out_prompts(tmp_path: Path) -> None:
    short, long = put("evaluate.heldout", 0.1), put("evaluate.heldout", {"share": 0.1})
    assert validate(short) == validate(long) != validate(small())
    more = with_sets(tmp_path, "evaluate.heldout=10%", "evaluate.heldout.max_texts=2k").evaluate.heldout
    assert (more.share, more.max_texts, more.max_tokens) == (0.1, 2000, HeldoutConfig().max_tokens)
    assert validate(put("evaluate.heldout", {"max_texts": None, "max_tokens": None})).evaluate.heldout.share == 0.05


@pytest.mark.parametrize(
    ("key", "wrong"),
    [("max_texts", 0), ("max_tokens", -1), ("texts", 3), ("share", 1), ("prompts_per_unit", 0)],
)
def test_caps_of_held_out_prompts_that_are_none(key: str, wrong: int) -> None:
    assert refused(put("evaluate.heldout", {key: wrong})).startswith(f"evaluate.heldout.{key}: ")


@pytest.mark.parametrize("written", ["1e-5", "0.00001", "1.0e-5"])
def test_a_float_that_yaml_reads_as_text(tmp_path: Path, written: str) -> None:
    """YAML 1.1 reads `1e-5`, without a dot, as a string."""
    config = with_sets(tmp_path, f"specialists.medical.train.lr={written}")
    assert config.specialists["medical"].train.lr == pytest.approx(1e-5)


def test_yaml_anchors_and_merges(tmp_path: Path) -> None:
    text = yaml.safe_dump(small(specialists={})).replace("specialists: {}\n", "")
    text += "specialists:\n  medical: &m {model: acme/a, train: {zero: 2}}\n  legal: {<<: *m, model: acme/b}\n"
    specialists = read(tmp_path, text).specialists
    assert [s.model.base for s in specialists.values()] == ["acme/a", "acme/b"]
    assert specialists["legal"].train.zero == 2


# --set --------------------------------------------------------------------------------------------------------


def test_set_reads_the_value_as_yaml(tmp_path: Path) -> None:
    config = with_sets(
        tmp_path,
        "name=other",
        "seed=7",
        "evaluate.baselines=[initial, generalist]",
        "teacher.sampling={temperature: 0.5}",
        "cluster.dashboard=true",
        "cluster.address=null",
        "storage=a=b",
    )
    assert (config.name, config.seed, config.evaluate.baselines) == ("other", 7, ["initial", "generalist"])
    assert config.teachers["teacher"].sampling.temperature == 0.5
    assert config.cluster.dashboard and config.cluster.address is None and config.storage == "a=b"


def test_set_creates_missing_parents(tmp_path: Path) -> None:
    assert with_sets(tmp_path, "teacher.sampling.samples=3").teachers["teacher"].sampling.samples == 3


def test_set_into_short_forms(tmp_path: Path) -> None:
    config = with_sets(tmp_path, "prompts.medical.limit=5", "specialists.medical.model.drop_layers=2")
    assert config.prompts["medical"].path == "data/medical.jsonl" and config.prompts["medical"].limit == 5
    assert config.specialists["medical"].model.base == "acme/student"
    assert config.specialists["medical"].model.drop_layers == 2


def test_the_last_set_wins(tmp_path: Path) -> None:
    assert with_sets(tmp_path, "seed=1", "seed=2").seed == 2


@pytest.mark.parametrize("bad", ["seed", "=3", ""])
def test_set_of_a_bad_form(tmp_path: Path, bad: str) -> None:
    with pytest.raises(ValueError, match=r"--set .*expected a\.b=value"):
        with_sets(tmp_path, bad)


@pytest.mark.parametrize("bad", ["seed=[", "seed={a: ", "seed=*x"])
def test_set_of_a_value_that_is_not_yaml(tmp_path: Path, bad: str) -> None:
    with pytest.raises(ValueError, match="--set"):
        with_sets(tmp_path, bad)


def test_set_below_an_empty_specialist(tmp_path: Path) -> None:
    data = small(defaults={"model": "acme/small"}, specialists={"medical": None})
    assert with_sets(tmp_path, "specialists.medical.train.zero=2", data=data).specialists["medical"].train.zero == 2


# Round trips and paths ----------------------------------------------------------------------------------------


def full() -> dict[str, Any]:
    return small(
        name="2024",
        seed=3,
        teacher={"model": "t", "replicas": [1, 4], "label_selector": {"on": "yes"}, "sampling": {"top_p": 0.9}},
        prompts={"yes": {"path": "x/y", "limit": 4, "sampling": {"samples": 2}}, "no": "~/z.jsonl"},
        domains={"yes": {"sampling": {"stop": ["on", "1e3"]}, "system_prompt": "null"}, "no": {"teacher": "teacher"}},
        answers={"filter": "keep.py:keep", "max_tokens": 9},
        targets={"withhold": {"yes": ["null", "1e3"]}},
        defaults={"train": {"tokens": "20M", "lr": "2e-5", "warmup": "1%"}},
        specialists={
            "a": {"model": {"base": "b", "drop_layers": [1, 2]}, "mix": {"yes": 1 / 3, "no": 2 / 3}},
            "b": {"model": {"config": {"model_type": "llama", "rope": {"theta": 1e4}}}, "mix": {"no": 1}},
        },
        evaluate={"heldout": "5%", "baselines": ["single_expert"], "truth": "t.py:f"},
        cluster={"runtime_env": {"env_vars": {"A": "1"}}},
    )


@pytest.mark.parametrize("data", [small(), full()], ids=["small", "full"])
def test_dump_and_validate_give_the_same_configuration(data: dict[str, Any]) -> None:
    config = validate(data)
    text = dump(config)
    assert validate(yaml.safe_load(text)) == config
    assert dump(validate(yaml.safe_load(text))) == text


def test_relative_paths_start_from_the_folder_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in ("teacher", "sub/student", "dataset"):
        (home / folder).mkdir(parents=True)
    elsewhere.mkdir()
    (home / "run.yaml").write_text(
        yaml.safe_dump(
            small(
                teacher={"model": "teacher"},
                prompts={
                    "there": "dataset",
                    "missing": "data/no.jsonl",
                    "hub": "acme/questions",
                    "bucket": "s3://bucket/x.jsonl",
                    "absolute": str(home / "x.parquet"),
                },
                specialists={
                    "near": {"model": "./sub/student", "mix": {"there": 1}},
                    "merged": {"model": {"merge_experts": "teacher"}, "mix": {"there": 1}},
                    "far": {"model": "Qwen/Qwen3-1.7B", "mix": {"there": 1}},
                },
                evaluate={"truth": "lang.py:f", "probes": "probes.jsonl"},
                answers={"filter": "sub/keep.py:f"},
            )
        )
    )
    monkeypatch.chdir(elsewhere)
    file = load_config(Path("../home/run.yaml"), [])
    located = file.located()
    assert Path(located.teachers["teacher"].model).samefile(home / "teacher")
    assert Path(located.specialists["near"].model.base or "").samefile(home / "sub/student")
    assert Path(located.specialists["merged"].model.merge_experts or "").samefile(home / "teacher")
    assert located.specialists["far"].model.base == "Qwen/Qwen3-1.7B"
    assert located.answers.filter == f"{located.evaluate.truth.removesuffix('lang.py:f')}sub/keep.py:f"
    paths = {name: source.path for name, source in located.prompts.items()}
    assert Path(paths["there"]).samefile(home / "dataset")
    assert Path(paths["missing"]).is_absolute() and paths["missing"].endswith("home/data/no.jsonl")
    assert (paths["hub"], paths["bucket"]) == ("acme/questions", "s3://bucket/x.jsonl")
    assert paths["absolute"] == str(home / "x.parquet")
    assert Path((located.evaluate.truth or "").removesuffix(":f")).parent.samefile(home)
    assert Path(located.evaluate.probes or "").parent.samefile(home)
    assert Path(located.storage) == elsewhere / "runs", "storage is where the command is typed"
    assert file.config.prompts["there"].path == "dataset", "the configuration itself stays as it was written"


def test_located_twice_is_located_once(tmp_path: Path) -> None:
    (tmp_path / "teacher").mkdir()
    file = ConfigFile(validate(small(teacher={"model": "teacher"})), tmp_path)
    once = file.located()
    assert dataclasses.replace(file, config=once, base=Path("/elsewhere")).located() == once


def test_a_bucket_stays_a_bucket(tmp_path: Path) -> None:
    assert ConfigFile(validate(small(storage="s3://b/p")), tmp_path).located().storage == "s3://b/p"


def test_a_key_that_is_a_duplicate_is_refused(tmp_path: Path) -> None:
    """A specialist pasted and not renamed would be lost without a word."""
    text = yaml.safe_dump(small()) + "name: other\n"
    with pytest.raises(ValueError, match="name"):
        read(tmp_path, text)
