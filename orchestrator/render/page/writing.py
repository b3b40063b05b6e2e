"""A report's files in its run: report.json, report.md, report.html, and texts.json."""

from __future__ import annotations

from collections.abc import Callable

from cluster.storage import Storage
from orchestrator.config.schema import RunConfig
from orchestrator.render.markdown import markdown
from orchestrator.render.page.page import report_page
from orchestrator.reporting.measures.shown import Texts, texts_from_json, texts_json
from orchestrator.reporting.report import Report
from orchestrator.reporting.timing import Worked
from workers.layout import REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN, REPORT_TEXTS


def write_report(storage: Storage, report: Report, texts: Texts) -> None:
    """All files of a report of what was measured now."""
    if texts:
        storage.write(REPORT_TEXTS, texts_json(texts))
    storage.write(REPORT_HTML, report_page(report, texts).encode())
    storage.write(REPORT_MARKDOWN, markdown(report).encode())
    storage.write(REPORT_JSON, report.to_json().encode())  # the last: who sees it finds the others


def last_texts(storage: Storage) -> Texts:
    """The texts of a run's last report; none where it has none."""
    return texts_from_json(storage.read(REPORT_TEXTS)) if storage.exists(REPORT_TEXTS) else Texts()


def page_of_last(storage: Storage, so_far: Callable[[], Report], worked: Worked, config: RunConfig) -> str:
    """The page of a run as it stands: of its last report, or of what there is `so_far` where it has none yet, with the
    seconds and costs until now."""
    texts = Texts()
    if storage.exists(REPORT_JSON):
        report, texts = Report.from_json(storage.read(REPORT_JSON)), last_texts(storage)
    else:
        report = so_far()  # it reads the stores' logs from end to end
    report.take_timing(worked, config)
    return report_page(report, texts)
