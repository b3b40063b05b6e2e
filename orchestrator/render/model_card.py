"""The card of an exported specialist: the README.md of its folder, as the Hugging Face Hub reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.render.jinja import filled
from orchestrator.render.sentences import gate_lines, task_lines
from orchestrator.reporting.licences import passed_on, stated_licences
from orchestrator.reporting.report import Report
from orchestrator.reporting.scores import Score

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

_METRICS = {
    "kl": ("kl_divergence", "KL divergence from the teacher, nats per token"),
    "top1_agreement": ("top1_agreement", "Top-1 agreement with the teacher"),
    "perplexity": ("perplexity", "Perplexity on held-out text"),
}
"""Fields of a score with their type and name in a model index. Names say what is compared: fidelity, not quality."""


def model_card(report: Report, name: str) -> str:
    """The card of a specialist."""
    from huggingface_hub import ModelCard  # imports an HTTP client: not for whoever asks for --help

    student = report.students[name]
    after = "" if student.hard_labels_tokens is None else f", after {student.hard_labels_tokens:,} tokens"
    beside = {"this model": student.heldout}
    if student.at_control_tokens is not None:
        beside[f"itself{after}"] = student.at_control_tokens
    beside |= {f"hard labels{after}": student.hard_labels, "given answers": student.given_answers}
    beside |= {"initial weights": student.initial}
    text = filled(
        "model_card.md.j2",
        report=report,
        name=name,
        student=student,
        columns={head: score for head, score in beside.items() if score is not None},
        tasks=[*task_lines(report, only=name), *(line for _, line in gate_lines(report, only=name))],
        licence=passed_on(report, name),
        licences=stated_licences(report, name),
        front_matter=_metadata(report, name).to_yaml(),
    )
    return str(ModelCard(text))


def _metadata(report: Report, name: str) -> ModelCardData:
    """The front matter. Its licence is the one that teacher and initial weights are under, or `other`."""
    from huggingface_hub import ModelCardData

    student, licence = report.students[name], passed_on(report, name)
    link = licence.link if licence is not None else None
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["distillation", "stillhouse"],
        base_model=student.base.name if student.base is not None and student.base.on_hub else None,
        model_name=name,
        license=licence.id if licence is not None else None,
        license_name=licence.name if licence is not None else None,
        license_link=link if link is not None and "://" in link else None,  # a file's name means nothing elsewhere
        eval_results=_results(report, student.domain, student.heldout) if student.heldout is not None else None,
    )


def _results(report: Report, domain: str, score: Score) -> list[EvalResult]:
    """The scores as a model index has them."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=f"{report.run}-heldout",
            dataset_name=f"held-out prompts of {domain}, run {report.run}",
            dataset_split="heldout",
            metric_type=kind,
            metric_name=shown,
            metric_value=getattr(score, field),
        )
        for field, (kind, shown) in _METRICS.items()
    ]
