"""The report of a training run and its curves."""

from __future__ import annotations

from lengthwise.training.report import TrainReport, curves_figure, report_to_markdown

REPORT = TrainReport(
    model="student",
    dim=8,
    steps=40,
    stopped="patience",
    tokens=4_000,
    seconds=2.0,
    best_step=30,
    best_loss=0.25,
    losses={"0: teacher": 0.25, "1: labels": 0.5},
    accuracies={"1: labels": 0.875},
    rows={"0: teacher": (90, 10, 3), "1: labels": (80, 8, 0)},
)


def test_report_says_what_was_trained_and_which_weights_are_kept() -> None:
    text = report_to_markdown(REPORT, "PICTURE")
    assert "40 steps of 4,000 tokens in 2.0 s (2,000 tokens/s)" in text
    assert "the weights are those after step 30, of the lowest held-out loss" in text
    assert "| 0: teacher | 90 | 10 | 3 | 0.2500 |  |" in text
    assert "| 1: labels | 80 | 8 | 0 | 0.5000 | 0.8750 |" in text
    assert "PICTURE" in text


def test_curves_have_a_panel_per_source_and_one_of_the_learning_rate() -> None:
    lines = [
        {"step": 10, "learning_rate": 0.1, "losses": {"0: teacher": 0.5}},
        {"step": 10, "validation": {"0: teacher": 0.4, "1: pairs": 2.0}},
        {"step": 20, "learning_rate": 0.05, "losses": {"0: teacher": 0.3, "1: pairs": 1.0}},
    ]
    axes = curves_figure(lines).axes
    assert [each.get_title(loc="left") for each in axes] == [
        "Loss of source 0: teacher",
        "Loss of source 1: pairs",
        "Learning rate",
    ]
    assert axes[0].lines[0].get_ydata().tolist() == [0.5, 0.3]
    assert axes[0].lines[1].get_ydata().tolist() == [0.4]
    assert axes[2].lines[0].get_xdata().tolist() == [10, 20]


def test_run_without_a_line_has_a_figure_too() -> None:
    assert len(curves_figure([]).axes) == 1
