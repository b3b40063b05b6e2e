"""What cards state of licences, wherever a model lies."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from support.servers.hub import Hub, hub_server, program_at, ran
from support.servers.s3_servers import reached_at

from cluster.storage import join, open_storage
from workers.fetching.licences import Licence, licence_in, licence_of

CARD = "---\nlanguage: en\nlicense: other\nlicense_name: llama3\nlicense_link: https://acme.org/l\n---\n# A model\n"
LLAMA = Licence("other", "llama3", "https://acme.org/l")


@pytest.mark.parametrize(
    ("front", "licence"),
    [
        ("license: apache-2.0", Licence("apache-2.0")),
        ("license: [mit, apache-2.0]", Licence("other", "mit, apache-2.0")),
        ("license: [mit]", Licence("mit")),
        ("license_name: acme-community", Licence("other", "acme-community")),
        ("language: en", None),
        ("license:", None),
        ("license: {of: mine}", None),
        ("- a\n- list", None),
        ("license: 'mit", None),
        ("license: mit\n---\nlicense: gpl-3.0", Licence("mit")),
    ],
)
def test_what_a_card_states(front: str, licence: Licence | None) -> None:
    assert licence_in(f"---\n{front}\n---\n\nlicense: in the text\n") == licence
    assert licence_in(f"---\r\n{front}\r\n---") == licence, "as other systems end lines"


def test_a_card_without_front_matter_states_none() -> None:
    assert licence_in("# A model\n---\nlicense: mit\n---\n") is None and licence_in("") is None


def test_of_a_folder_and_of_a_store(tmp_path: Path, moto_endpoint: str) -> None:
    (tmp_path / "with").mkdir()
    (tmp_path / "with" / "README.md").write_text(CARD)
    (tmp_path / "without").mkdir()
    assert licence_of(str(tmp_path / "with")) == LLAMA and licence_of(str(tmp_path / "without")) is None
    assert licence_of(str(tmp_path / "nowhere")) is None
    with reached_at(moto_endpoint) as bucket:
        uri = join(bucket, uuid.uuid4().hex)
        open_storage(uri).write("with/README.md", CARD.encode())
        assert licence_of(f"{uri}/with") == LLAMA and licence_of(f"{uri}/without") is None


def test_of_the_hub_and_of_what_its_cache_has(tmp_path: Path) -> None:
    """The card alone is fetched; afterwards no network is needed."""
    look = "import json; from workers.fetching.licences import licence_of; "
    look += "print(json.dumps([x.shown if (x := licence_of(m)) else None for m in ('acme/tiny', 'acme/none')]))"
    with hub_server(Hub("acme/tiny")) as hub:
        hub.commit({"config.json": b"{}", "model.safetensors": b"w" * 100, "README.md": CARD.encode()}, "main")
        assert ran(program_at(hub, tmp_path, look))[0] == ["llama3", None]
        assert not list(tmp_path.rglob("model.safetensors"))
        assert ran(program_at(hub, tmp_path, look, HF_HUB_OFFLINE="1"))[0] == ["llama3", None]
