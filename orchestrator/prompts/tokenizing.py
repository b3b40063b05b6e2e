"""Prompts and answers as token ids, each by the tokenizer and the chat template of the teacher that it is for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.prompts.policy import PromptPolicy, chat_of
from orchestrator.prompts.reading.messages import Message
from orchestrator.prompts.rendering import ChatWriter, verbatim
from orchestrator.prompts.sources import RawPrompt
from orchestrator.prompts.special_tokens import SpecialTokens
from workers.chat_template import Writer, refusals, special_tokens, template_writer
from workers.fetching.folder import model_folder
from workers.model_files import configured_stop_ids, read_model_config, stop_ids
from workers.model_sizes import DTYPE_BYTES
from workers.teacher.config import TeacherConfig
from workers.teacher.engines.families import kv_cache_bytes

_MOST_BEHIND_END = 8
"""Tokens, of white space and special ones, that a template may write behind the end of a turn."""


@dataclass(frozen=True)
class TokenizerFacts:
    """What stores record of the tokenizer that the teachers share."""

    fingerprint: str = ""
    chat_template: str = ""
    always_keep: tuple[int, ...] = ()
    """Ids of `targets.always_keep`."""


@dataclass(frozen=True)
class TokenizedPrompt:
    """A row as its teacher reads it."""

    text: str
    """The prompt, as text."""
    prompt_token_ids: list[int]
    answer_token_ids: list[int] | None
    """The given answer with its end, or None."""
    looks_special: bool = False
    """Whether strings in it look like special tokens and were read as text."""


@dataclass(frozen=True)
class _Texts:
    """What of a row goes through the tokenizer, strings that look like special tokens marked."""

    prompt: str
    answer: str | None
    chat: bool
    ends: bool = False
    """Whether the answer's end is in it, as a chat template writes it."""

    @property
    def is_marked(self) -> bool:
        return SpecialTokens.is_marked(self.prompt) or SpecialTokens.is_marked(self.answer or "")

    def encoded(self) -> list[tuple[str, bool]]:
        """The texts to encode, each with whether the tokenizer adds its special tokens."""
        if self.answer is None:
            return [(self.prompt, not self.chat)]
        if self.ends:
            return [(self.prompt, False), (self.prompt + self.answer, False)]
        if not self.prompt:
            return [(self.answer, True)]
        return [(self.prompt, not self.chat), (self.answer, False)]


class TeacherTokenizer:
    """One teacher's tokenizer, the tokens that the teacher can hold, and those that end its answers."""

    def __init__(self, tokenizer: Any, write: Writer | None, *, eos: int | None, stops: Iterable[int], longest: int):
        """`tokenizer` is a `tokenizers.Tokenizer`, `write` its chat template; `eos` ends a given answer, `stops` are
        the ids that end the teacher's, `longest` the tokens that it holds."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer, self._eos = tokenizer, eos
        self._special = SpecialTokens(tokenizer)
        self._writer = ChatWriter(write) if write is not None else None
        self.stop_ids, self.longest = sorted(stops), longest
        self.vocabulary = tokenizer.get_vocab_size(with_added_tokens=True)

    @staticmethod
    def of_transformers(teacher: TeacherConfig) -> TeacherTokenizer:
        """As transformers loads it: what prompts are frozen by."""
        from transformers import AutoConfig, AutoTokenizer

        folder = model_folder(teacher.model, teacher.revision, weights=False)
        loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=teacher.trust_remote_code)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=teacher.trust_remote_code)

        def write(messages: list[Message], **settings: Any) -> str:
            return refusals(lambda: loaded.apply_chat_template(messages, tokenize=False, **settings))

        made = TeacherTokenizer(
            loaded.backend_tokenizer,
            write if loaded.chat_template else None,
            eos=loaded.eos_token_id,
            stops=stop_ids(loaded, config),
            longest=most_tokens(teacher, folder),
        )
        made.vocabulary = len(loaded)
        return made

    @staticmethod
    def of_files(teacher: TeacherConfig, folder: Path) -> TeacherTokenizer:
        """From the tokenizer's files alone, without transformers: to try prompts on before anything is loaded."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        token = special_tokens(folder).get("eos_token")
        eos = tokenizer.token_to_id(token) if token is not None else None
        stops = {*configured_stop_ids(read_model_config(folder)), *([eos] if eos is not None else [])}
        longest = most_tokens(teacher, folder)
        return TeacherTokenizer(tokenizer, template_writer(folder), eos=eos, stops=stops, longest=longest)

    def prompts(self, items: Sequence[tuple[RawPrompt, PromptPolicy]]) -> list[TokenizedPrompt | ValueError]:
        """Rows as token ids; a ValueError, the reason to reject it, in place of one that cannot be asked."""
        texts = [self._texts_or_reason(row, how) for row, how in items]
        jobs = [job for t in texts if isinstance(t, _Texts) for job in t.encoded()]
        ids: dict[bool, Iterator[list[int] | ValueError]] = {}
        for special in (False, True):
            mine = [text for text, own in jobs if own == special]
            ids[special] = iter(self._special.encode(mine, add_special_tokens=special))
        found: list[TokenizedPrompt | ValueError] = []
        for item in texts:
            if isinstance(item, ValueError):
                found.append(item)
                continue
            parts = [next(ids[special]) for _, special in item.encoded()]
            broken = next((part for part in parts if isinstance(part, ValueError)), None)
            found.append(broken or self._assembled(item, *parts))  # type: ignore[arg-type]
        return found

    def ids(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text as it stands. Raises ValueError for text that is no Unicode."""
        return self._tokenizer.encode(_unicode(text), add_special_tokens=special).ids

    def _texts_or_reason(self, row: RawPrompt, how: PromptPolicy) -> _Texts | ValueError:
        try:
            return self._texts(row, how)
        except ValueError as error:
            return error

    def _texts(self, row: RawPrompt, how: PromptPolicy) -> _Texts:
        messages, answer, tools = chat_of(row, how), row.answer, row.tools
        text = row.prompt
        if how.special_tokens == "text":
            messages, answer, tools, text = (self._special.mark(part) for part in (messages, answer, tools, text))
        if messages is None:
            assert text is not None and not isinstance(answer, dict)
            return _Texts(_unicode(text), None if answer is None else _unicode(answer), chat=False)
        if self._writer is None:
            raise ValueError("has chat messages, but the teacher's tokenizer has no chat template")
        prompt = _unicode(self._writer.prompt(messages, tools, how.chat_template_kwargs))
        if answer is None:
            return _Texts(prompt, None, chat=True)
        assert isinstance(answer, dict)
        if how.answer_format == "verbatim":
            return _Texts(prompt, _unicode(verbatim(prompt, answer)), chat=True)
        written = self._writer.answer(prompt, messages, answer, tools, how.chat_template_kwargs)
        return _Texts(prompt, _unicode(written), chat=True, ends=True)

    def _assembled(
        self, texts: _Texts, first: list[int], second: list[int] | None = None
    ) -> TokenizedPrompt | ValueError:
        text, marked = self._special.unmarked(texts.prompt or texts.answer or ""), texts.is_marked
        if not first:
            return ValueError("has no tokens")
        if texts.answer is None:
            return TokenizedPrompt(text, first, None, marked)
        if second is None:  # a whole text: what is before its first token of words, or that token, is its prompt
            words = next((i for i, token in enumerate(first) if token not in self._special.ids), 0)
            prompt, answer = first[: max(words, 1)], first[max(words, 1) :]
        elif texts.ends:
            prompt = first
            # As the template's text is read in one piece, but for a token that spans the border.
            if second[: len(first)] == first:
                answer = second[len(first) :]
            else:
                [alone] = self._special.encode([texts.answer], add_special_tokens=False)
                if isinstance(alone, ValueError):
                    return alone
                answer = alone
        else:
            prompt, answer = first, second
        if not answer:
            return ValueError("has an answer of no tokens")
        return TokenizedPrompt(text, prompt, self._ended(answer), marked)

    def _ended(self, answer: list[int]) -> list[int]:
        """An answer to its end: up to the token that ends a turn, or with the end token put behind it."""
        for stops in (set(self.stop_ids), self._special.ids):
            for place in range(max(0, len(answer) - _MOST_BEHIND_END), len(answer)):
                if answer[place] in stops and not self._tokenizer.decode(answer[place + 1 :]).strip():
                    return answer[: place + 1]
        return answer + ([self._eos] if self._eos is not None else [])


def most_tokens(teacher: TeacherConfig, folder: Path) -> int:
    """Tokens of the longest text that a teacher holds."""
    config = read_model_config(folder)
    longest = int(config.get("max_position_embeddings") or 1 << 30)
    if teacher.kv_cache_memory is not None:
        shared = teacher.ep_size if teacher.dispatch == "all_reduce" else teacher.vllm.tensor_parallel
        of_token = kv_cache_bytes(config, 1, DTYPE_BYTES[teacher.precision]) // shared
        longest = min(longest, teacher.kv_cache_memory // max(of_token, 1))
    return min(longest, int(teacher.vllm.engine_kwargs.get("max_model_len") or longest))


def _unicode(text: str) -> str:
    """A text that UTF-8 can hold. Raises ValueError for one that JSON can say and it cannot: half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode") from None
    return text
