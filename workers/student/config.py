"""One specialist: its model, its data mixture, its loss, its training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cluster.settings import Count, Range, Settings, Share
from workers.quantise.config import QuantiseConfig, QuantisedConfig, RoundingConfig
from workers.student.losses.config import LossConfig

_SIZES = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim", "vocab_size"}

Beta = Annotated[float, Field(ge=0, lt=1)]


class LoraConfig(Settings):
    """Low-rank adapters (LoRA, arXiv 2106.09685) beside the linear layers of a student's decoder, by peft."""

    rank: int = Field(default=16, ge=1)
    """Rank of an adapter's two matrices."""

    alpha: int = Field(default=32, ge=1)
    """What an adapter adds is multiplied by alpha / rank."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of an adapter's inputs while training."""

    targets: list[str] = []
    """Names of the linear layers that get one, for example [q_proj, v_proj]. Empty: all of the decoder's layers. The
    head and the embeddings cannot have one."""


class ModelConfig(Settings):
    """Where a student's initial weights come from. A plain string means `base`."""

    base: str | None = None
    """Hugging Face id, a folder, or an s3:// folder, of a dense model to start from."""

    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id."""

    config: dict[str, Any] | None = None
    """A transformers configuration (`model_type` and its sizes) to start from random weights. The vocabulary is the
    teacher's tokenizer."""

    merge_experts: str | None = None
    """Hugging Face id, a folder, or an s3:// folder, of a mixture of experts, normally the teacher, to start from as a
    dense model: the experts of each layer become one MLP, all else is kept."""

    merge: Literal["auto", "neurons", "average"] = "auto"
    """How experts become one MLP. `neurons` takes the neurons that add most on the domain's texts, out of all experts,
    and fits their output weights to what the mixture puts out; `average` is the experts' mean, weighted by how often
    texts are sent to them. `auto` makes both and keeps the one with the smaller KL to the mixture. All is measured on
    the domain's prompts and the mixture's answers."""

    merged_width: int | None = Field(default=None, ge=1)
    """Neurons of each MLP that `neurons` makes. None: as many as the experts of one token have together."""

    drop_layers: int | list[int] = 0
    """Decoder layers of `base` or `merge_experts` to leave out: a list of indices, or how many (those whose removal
    raises the KL to that model least, measured greedily on the domain's prompts)."""

    lora: LoraConfig | None = None
    """Train low-rank adapters and leave these weights as they are; the trained model has them merged in. None trains
    all weights."""

    @property
    def source(self) -> str | None:
        """The model that the weights come from; None for random ones."""
        return self.base if self.base is not None else self.merge_experts

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"base": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> ModelConfig:
        if sum(source is not None for source in (self.base, self.config, self.merge_experts)) != 1:
            raise ValueError(
                "give either `base` (a model to start from), `merge_experts` (a mixture to make dense) or `config` "
                "(sizes of a new one)"
            )
        if self.config is not None and self.drop_layers:
            raise ValueError("`drop_layers` goes with `base` or `merge_experts`")
        if self.merge_experts is None and (self.merge != "auto" or self.merged_width is not None):
            raise ValueError("`merge` and `merged_width` go with `merge_experts`")
        if self.merge != "neurons" and self.merged_width is not None:
            raise ValueError("`merged_width` goes with `merge: neurons`: an average is as wide as one expert")
        if self.config is not None and self.lora is not None:
            raise ValueError("`lora` goes with `base` or `merge_experts`: random weights must all be trained")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("`config` needs a `model_type`, for example qwen3 or llama")
        for name in _SIZES & (self.config or {}).keys():
            value = (self.config or {})[name]
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`config.{name}` is {value!r}; expected a whole number from 1")
        return self


class InitialConfig(Settings):
    """The process that makes students' initial weights where they come from a model (`base`, `merge_experts`)."""

    memory: Count = Field(default=16 * 10**9, ge=0)
    """Bytes of a mixture's layers (`merge_experts`) that are held at once, for example 60G. A mixture is run layer by
    layer, and layers that do not fit are read from its files again for each token of the answers to its prompts, which
    are 64: give as much as a node has, and best the mixture's size. What is held beside them is in the plan."""

    cpus: float = Field(default=1, ge=0)
    """CPUs that Ray reserves for the process, beside the memory that the plan names."""

    threads: int | None = Field(default=None, ge=1)
    """Threads of its computation. Null: one for each CPU of its machine."""


_GPU_CHECKPOINT_S = 1800.0
"""Between two checkpoints by default, with GPUs: every 200 steps an 8B model would write 34 TB in 1B tokens."""


class TrainConfig(Settings):
    """How a student is trained."""

    tokens: Count = Field(default=20_000_000, ge=1)
    """Budget in target tokens. A domain whose targets end begins again in another order."""

    batch_tokens: Count = Field(default=16_384, ge=1)
    """Target tokens of one optimiser step, over all workers."""

    micro_tokens: Count = Field(default=8_192, ge=1)
    """Tokens, padding included, that one worker runs at once. More steps accumulate."""

    packing: bool = True
    """Lay texts one after another without padding, each attending to itself alone. Where an architecture cannot, and
    where this is off, texts of similar length are padded."""

    lr: float = Field(default=2e-5, gt=0, le=1)
    """Peak learning rate, at most 1."""

    schedule: Literal["constant", "linear", "cosine", "wsd"] = "wsd"
    """Shape of the learning rate over the token budget. `wsd` is warm-up, stable, then linear decay to 0."""

    warmup: Share = Field(default=0.05, ge=0, lt=1)
    """Part of the budget in which the learning rate rises linearly."""

    decay: Share = Field(default=0.2, gt=0, le=1)
    """Last part of the budget in which `wsd` decays."""

    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's weight decay."""

    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's decay rates of its two moments."""

    clip: float = Field(default=1.0, ge=0)
    """Largest norm of the gradient; 0 turns clipping off."""

    workers: Range = (1, 1)
    """Data-parallel workers of this specialist: a number, or `[min, max]`. With a range it starts as soon as the least
    have room, grows when there is more, and continues with fewer where nodes were lost, each time from its last
    checkpoint. `batch_tokens` is over all workers, so that their number changes nothing but the last bits."""

    resize_s: float = Field(default=60, gt=0)
    """With a range of `workers`: seconds from one look for room to grow to the next. Growing costs the steps since the
    last checkpoint, and a start."""

    zero: Literal["auto", 1, 2, 3] = "auto"
    """DeepSpeed ZeRO stage: what workers share out of the optimiser's state (1), gradients (2), weights (3, while they
    are read). In bfloat16, gradients of a step's micro-batches are added up in float32 at 2 and 3, in bfloat16 at 1.
    `auto` is 2 in bfloat16 and 1 in float32, but nothing for a worker that is alone and computes in float32: it has
    nobody to share with, and is spared the copies."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the computation; `auto` is bfloat16 on a GPU and float32 on a CPU."""

    cpus_per_worker: float = Field(default=1, gt=0)
    """CPUs that Ray reserves for a worker."""

    gpus_per_worker: float = Field(default=0, ge=0)
    """GPUs that Ray reserves for a worker: a whole number, or a part of one (0.5), so that small specialists with one
    worker each share it. 0 trains on the CPU with gloo."""

    label_selector: dict[str, str] = {}
    """Ray labels that a worker's node must have, for example {stillhouse-role: student}. Empty: any node."""

    threads_per_worker: int = Field(default=1, ge=1)
    """Threads of a worker's computation on a CPU."""

    checkpoint_steps: int | None = Field(default=200, ge=1)
    """Steps between checkpoints. Null: none by steps. One after the last step is always written. With GPUs, where
    neither this nor `checkpoint_s` is given, they are null and 1,800: steps are short there, and checkpoints large."""

    checkpoint_s: float | None = Field(default=None, gt=0)
    """Seconds after which a checkpoint is written, beside those of `checkpoint_steps`. Null: none by the clock."""

    keep: Literal["last", "best"] = "last"
    """Which weights become the final model: those after the last step, or those of the checkpoint whose mean training
    loss since the checkpoint before was least. In the first epoch texts are new, so that loss is close to a held-out
    one; later it is not. The last two checkpoints and the best one are kept."""

    max_failures: int | None = Field(default=None, ge=0)
    """Times in a row, with no new checkpoint between, that the specialist is started again from its last checkpoint
    after a worker died or its node was lost. Null: 0, and 3 with a range of `workers`. What would only happen again,
    such as a loss that is NaN or Inf, ends it at once."""

    hang_deadline_s: float = Field(default=900, gt=0)
    """Seconds that workers wait for each other in an optimiser step, after which one of them counts as hung: the group
    fails, and begins anew as `max_failures` says; of NCCL, each rank leaves its last collectives for `torchfrtrace` in
    `nccl-NAME-rank-N`, beside Ray's logs of its node. Between steps, where checkpoints are written, it is
    `cluster.network.collective_s`."""

    diverged: int | None = Field(default=3, ge=1)
    """Checkpoints in a row at which the mean training loss since the one before is more than twice that of the first
    step, after which training stops; the best checkpoint stays. Null: it goes on."""

    gradient_checkpointing: Share = Field(default=0.0, ge=0, le=1)
    """Part of the layers, spread evenly, whose activations are computed again in the backward pass instead of kept:
    less memory, and up to a third more to compute. `true` is all of them, `false` none."""

    compile: bool = False
    """Compile the decoder's layers (torch.compile), for any lengths of texts: fewer kernels and less memory traffic on
    a GPU, the same numbers but for last bits. The first step on a node takes minutes longer; later ones find what was
    compiled in its ~/.cache/stillhouse/compiled, or where TORCHINDUCTOR_CACHE_DIR says. Not with ZeRO-3."""

    quantise: QuantiseConfig | None = None
    """Train with weights on a lattice of few bits, on which the trained model then is. Null: weights are whole."""

    @model_validator(mode="before")
    @classmethod
    def _checkpoints_of_gpus(cls, value: Any) -> Any:
        given = {"checkpoint_steps", "checkpoint_s"}
        if isinstance(value, dict) and value.get("gpus_per_worker") and not given & value.keys():
            return {**value, "checkpoint_steps": None, "checkpoint_s": _GPU_CHECKPOINT_S}
        return value

    @model_validator(mode="after")
    def _something_to_go_on_from(self) -> TrainConfig:
        if self.restarts and self.checkpoint_steps is None and self.checkpoint_s is None:
            raise ValueError(
                "`checkpoint_steps` and `checkpoint_s` are both null: a range of `workers`, or `max_failures`, would "
                "begin again at step 0; give one of them"
            )
        return self

    @model_validator(mode="after")
    def _gpus_can_be_had(self) -> TrainConfig:
        gpus = self.gpus_per_worker
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"`gpus_per_worker` is {gpus:g}; Ray gives whole GPUs, or a part of one: take 1 or less")
        if 0 < gpus < 1 and self.workers[1] > 1:
            raise ValueError(
                f"`gpus_per_worker` is {gpus:g} with {self.workers[1]} `workers`: two of them could come to one GPU, "
                "which NCCL refuses; take one worker, or whole GPUs"
            )
        return self

    @model_validator(mode="after")
    def _layers_can_be_compiled(self) -> TrainConfig:
        if self.compile and self.zero == 3:
            raise ValueError(
                "`compile: true` with `zero: 3`, which gathers weights and gives them up within a layer: nothing would "
                "stay compiled; take `zero: 2`, or `compile: false`"
            )
        return self

    @model_validator(mode="after")
    def _some_steps_on_the_lattice(self) -> TrainConfig:
        if self.quantise is None or not self.quantise.start:
            return self
        start = self.quantise.start
        if round(start * self.tokens) > self.tokens - self.batch_tokens:
            raise ValueError(
                f"`quantise.start` is {start:.4g}, which leaves no whole step of {self.batch_tokens:,} tokens "
                f"(batch_tokens) of {self.tokens:,} to be trained on the lattice; start earlier"
            )
        if self.keep == "best":
            raise ValueError(
                "`keep: best` compares losses, and those from before `quantise.start` are of weights that are not on "
                "the lattice; take `keep: last`, or `quantise.start: 0%`"
            )
        return self

    @property
    def restarts(self) -> int:
        """`max_failures`, where it is null as well."""
        if self.max_failures is not None:
            return self.max_failures
        return 0 if self.workers[0] == self.workers[1] else 3

    def zero_stage(self, workers: int, dtype: str) -> int:
        """The ZeRO stage of so many workers that compute in `dtype`; 0 partitions nothing."""
        if self.zero != "auto":
            return self.zero
        if dtype == "bfloat16":
            return 2
        return 0 if workers == 1 else 1


class TextsConfig(Settings):
    """Which parts of the store's texts a student learns from."""

    mask_prompts: bool = False
    """Leave out the targets at the prompt's own tokens, which a store with `targets.positions: all` has: the prompt is
    context only. A store with `answer` has none of them."""

    max_tokens: int | None = Field(default=None, ge=2)
    """Tokens of a text, prompt and answer together, that a student takes at once. Null: all, whatever its length."""

    long: Literal["split", "reject"] = "split"
    """What becomes of longer texts. `split`: pieces of `max_tokens`, each target in one of them. `reject`: they are
    not learned from; the run says how many."""

    overlap: int = Field(default=0, ge=0)
    """Tokens of the piece before with which a later piece begins, as context without targets."""

    @model_validator(mode="after")
    def _pieces_advance(self) -> TextsConfig:
        if self.max_tokens is not None and self.overlap >= self.max_tokens - 1:
            raise ValueError(
                f"`overlap` is {self.overlap}, of pieces of {self.max_tokens} tokens: they would hold no new target; "
                f"give at most {self.max_tokens - 2}"
            )
        return self


class SpecialistConfig(Settings):
    """One student model."""

    model: ModelConfig
    """What it starts from."""

    priority: int = 0
    """Who takes a place first where not all have one: higher before lower, then in the order of the file."""

    mix: dict[str, float] = {}
    """Share of target tokens by domain. Empty: the domain of the specialist's own name."""

    texts: TextsConfig = TextsConfig()
    """Which parts of the texts it learns from."""

    loss: LossConfig = LossConfig()
    """What it minimises."""

    train: TrainConfig = TrainConfig()
    """How it is trained."""

    quantised: QuantisedConfig | None = None
    """Another student, `NAME.quantised`, that goes on from its trained weights with these on a lattice of few bits.
    `qad` is the preset. Null: none."""

    @property
    def roundings(self) -> dict[str, RoundingConfig]:
        """What is put on a lattice, of itself or its sibling, by the setting that says so."""
        said = {"train.quantise": self.train.quantise, "quantised": self.quantised}
        return {key: settings.rounding() for key, settings in said.items() if settings is not None}

    @model_validator(mode="after")
    def _one_way_to_the_lattice(self) -> SpecialistConfig:
        if self.train.quantise is not None and self.model.lora is not None:
            raise ValueError(
                "`model.lora` leaves the weights as they are, and `train.quantise` trains all of those that are "
                "rounded; take one of them out, or `quantised: qad`, which goes on from the merged weights"
            )
        if self.train.quantise is not None and self.quantised is not None:
            raise ValueError(
                "`train.quantise` and `quantised` are both given: it is on the lattice already; take one of them out"
            )
        return self

    @model_validator(mode="after")
    def _losses_compare(self) -> SpecialistConfig:
        if self.train.keep == "best" and (self.loss.kl_end is not None or self.loss.ce_end is not None):
            raise ValueError(
                "`train.keep: best` compares losses, and `loss.kl_end` or `loss.ce_end` changes what they weigh; take "
                "`keep: last`, or constant weights"
            )
        return self
