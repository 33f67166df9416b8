"""The chart of a table."""

from kdbench.reports.chart import draw_chart
from kdbench.reports.report import report_on
from tests.reports.records import record, three_losses, write


def test_a_chart_is_a_png(tmp_path):
    draw_chart(report_on([str(three_losses(tmp_path / "runs"))], ""), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_groups_of_classes_are_panels_of_their_own(tmp_path):
    grouped = record("kd", scores={"omitted": 1.0, "kept": 60.0})
    report = report_on([str(write(tmp_path / "runs", grouped, record("ce")))], "")
    draw_chart(report, tmp_path / "chart.png")
    draw_chart(report_on([str(write(tmp_path / "plain", record("ce")))], ""), tmp_path / "plain.png")
    width, plain = (_width(tmp_path / name) for name in ("chart.png", "plain.png"))
    assert width > plain


def _width(path) -> int:
    return int.from_bytes(path.read_bytes()[16:20], "big")
