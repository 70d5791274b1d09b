"""`validation.md` and the summary on the terminal: the verdicts for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lengthwise.config import WEIGHTS_FILE
from lengthwise.export.artifact.difference import LARGEST
from lengthwise.export.artifact.folder import VALIDATION_MD
from lengthwise.export.artifact.rounding import FACTOR
from lengthwise.export.graphs.variants import EVERY_VARIANT, NATIVE, Variant
from lengthwise.export.validation.cases import GOLDEN_CASE
from lengthwise.export.validation.verdict import LENGTHS_SHOWN, Validation, Verdict, by_runtime
from lengthwise.util.markdown import markdown_table
from lengthwise.util.system import cpu_count, cpu_model

_SIGNS = {"passed": "✓", "failed": "✗", "refused": "refused", "not run": "not run"}
_PYTORCH = "pytorch"
_LEGEND = (
    "✓ with the largest difference from PyTorch; ✗ with the value that decided, in parentheses if it is a known"
    " limitation of the runtime or the graph that was found again. A dash: the runtime has no such graph."
)
_METHOD = (
    "A difference is |value - PyTorch's| / max(1, the row's largest value). PyTorch's value is that of the packed"
    " encoder on each row alone, at its own length. Each runtime is compared on batches of 1, 2, 5 and 17 rows (equal"
    " lengths, single tokens, one long row, unsorted, an axis longer than any row, rows without tokens; random ids in"
    " the padding), on every id of the vocabulary, on the artifact's golden vectors and on real texts if given; and"
    " with itself: with more padding, in another order, a row alone. Below float32, what passes is relative to the"
    " length of a vector or state, and its cosine and the labels decide too. A graph is too coarse for an encoder if"
    " PyTorch, with its weights rounded as the graph's are, is off by half of that or more."
)

_SUM = (
    "This encoder sums the states of all tokens, and the errors of the states add up with them. A sum S of T states is"
    " uncertain by sqrt(T + S^2) times the error of one state, and a value of the vector, which weights the sums by w,"
    " by sqrt(sum of w^2 (T + S^2)). Its difference is divided by that where it is larger than 1 and the row's largest"
    " value, so the tolerances are those of one state. Before that, twice the error of summing these very states in"
    " float32 is subtracted, in every precision the same: it is large where a repeated token makes each step round the"
    " same way. The table has both, as a divisor at the tolerance of float32. The states themselves"
    " (`token_embeddings`) are judged as with any other encoder."
)

_ROUNDING = (
    "This encoder amplifies rounding errors: PyTorch's own vectors in float32 are as far from those in float64, with"
    " the same weights, as the table says. Two implementations differ by what both round, so"
    f" {FACTOR:.0f} times that is allowed where it is more than the tolerance, by length of text: a short text has"
    f" had few tokens to amplify anything; never more than {LARGEST:.0e} of the row's largest value. Graphs below"
    " float32 get none of it."
)

_LABELS = (
    "Logits are judged as vectors are: a logit may differ by what the vector may differ by, times what the classifier"
    " makes of that. Labels are those with the largest logit (under sigmoid, all with a positive one). The rows are"
    " those of all comparisons, random ids among them."
)


def validation_to_markdown(validation: Validation, heat_map: str | None = None) -> str:
    """What to deploy where, every runtime on every graph, reasons, speed, precision, then the details.

    Args:
        validation: the verdicts.
        heat_map: the file name of the heat map, if there is one.
    """
    variants = [f"- **{variant.name}** (`{variant.file}`): {variant.what}." for variant in _present(validation)]
    sections = [
        "# Validation",
        _headline(validation),
        f"## What to deploy\n\n{deployment_table(validation)}",
        f"## Every runtime on every graph\n\n{matrix(validation.verdicts)}",
        "\n".join(variants),
        _LEGEND,
        f"![Largest difference by runtime and case]({heat_map})" if heat_map else "",
        "## Reasons\n\n" + "\n".join(_reasons(validation.verdicts)),
        control_sentence(validation),
        _label_section(validation),
        _speed_section(validation),
        *_precision_sections(validation),
        f"## How it was compared\n\n{_METHOD}",
        _sum_section(validation),
        _rounding_section(validation),
        verdict_table(validation.verdicts),
        *(_detail_section(verdict) for verdict in validation.verdicts if verdict.comparison.cases),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def card_section(validation: Validation) -> str:
    """What the artifact's card says of its validation."""
    link = f"[{VALIDATION_MD}]({VALIDATION_MD}) has the details."
    tables = [deployment_table(validation), matrix(validation.verdicts), label_table(validation)]
    return "\n\n".join(part for part in [*tables, control_sentence(validation), link] if part)


def summary(validation: Validation) -> str:
    """Plain text: one line per runtime with the graph to use, one per failure, and one on the control."""
    lines = [_runtime_line(validation, *item) for item in by_runtime(validation.verdicts).items()]
    if validation.rounding is not None and validation.rounding.amplifies:
        lines.append(f"rounding    {validation.rounding.sentence()}")
    lines += [f"do not use  {v.runtime}, {v.variant}: {v.reason}" for v in validation.verdicts if v.coarse]
    lines += [f"failed      {v.runtime}, {v.variant}: {v.reason}" for v in validation.failed]
    lines.append(f"control     {control_sentence(validation).removeprefix('Control: ')}")
    return "\n".join(lines)


def _runtime_line(validation: Validation, runtime: str, verdicts: Sequence[Verdict]) -> str:
    if all(verdict.status == "not run" for verdict in verdicts):
        return f"{'not run':11} {runtime}: {verdicts[0].reason}"
    cells = ", ".join(f"{verdict.variant} {_cell(verdict)}" for verdict in verdicts)
    use = validation.recommended.get(runtime)
    failed = use is None or any(verdict in validation.failed for verdict in verdicts)
    advice = "; nothing passed in float32" if use is None else f"; use {use}" if len(verdicts) > 1 else ""
    return f"{'failed' if failed else 'passed':11} {runtime}: {cells}{advice}"


def deployment_table(validation: Validation) -> str:
    """A Markdown table: per runtime that ran, the graph to load and its difference from PyTorch."""
    rows = []
    by_pair = {(verdict.runtime, verdict.variant): verdict for verdict in validation.verdicts}
    for runtime, verdicts in by_runtime(validation.verdicts).items():
        if runtime.startswith(_PYTORCH) or all(verdict.status == "not run" for verdict in verdicts):
            continue
        name = validation.recommended.get(runtime)
        wrong = ", ".join(f"`{v.file}`" for v in verdicts if v.status == "failed" and EVERY_VARIANT[v.variant].exact)
        if name is None:
            rows.append((runtime, "**nothing passed**", "", wrong))
        else:
            best = by_pair[runtime, name]
            rows.append((runtime, f"**`{best.file}`**", _figure(best.comparison.difference), wrong))
    return markdown_table(("runtime", "load", "largest difference from PyTorch", "wrong results with"), rows)


def matrix(verdicts: Sequence[Verdict]) -> str:
    """A Markdown table of runtimes by graphs; PyTorch itself is in the column of the native graph."""
    variants = [name for name in EVERY_VARIANT if any(verdict.variant == name for verdict in verdicts)]
    rows = []
    for runtime, found in by_runtime(verdicts).items():
        cells = {verdict.variant: _cell(verdict) for verdict in found}
        rows.append((runtime, *(cells.get(name, "–") for name in variants)))
    return markdown_table(("runtime", *variants), rows)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """A Markdown table of all verdicts and what was measured."""
    columns = ("runtime", "file", "verdict", "from PyTorch", "between batches", "99th percentile", "smallest cosine")
    rows = []
    for verdict in verdicts:
        found = verdict.comparison
        status = verdict.status if not verdict.reason else f"{verdict.status}: {verdict.reason}"
        figures = [_figure(found.difference), _figure(found.batch_difference), _figure(found.p99_difference)]
        cosine = "" if found.cosine is None else f"{found.cosine:.8f}"
        tolerance = f"{verdict.tolerances.difference:.0e}"
        rows.append((verdict.runtime, f"`{verdict.file}`", status, *figures, cosine, tolerance, len(found.cases)))
    return markdown_table((*columns, "tolerance", "comparisons"), rows)


def label_table(validation: Validation) -> str:
    """A Markdown table of an encoder's labels on every runtime and graph; empty without labels."""
    rows = [
        (
            v.runtime,
            f"`{v.file}`",
            f"{v.comparison.changed:,} of {v.comparison.decided:,}",
            _figure(v.comparison.logits),
        )
        for v in validation.verdicts
        if v.comparison.logits is not None
    ]
    columns = ("runtime", "file", "rows with another label than PyTorch's", "largest difference of a logit")
    return markdown_table(columns, rows) if rows else ""


def _label_section(validation: Validation) -> str:
    table = label_table(validation)
    return f"## Labels\n\n{_LABELS}\n\n{table}" if table else ""


def control_sentence(validation: Validation) -> str:
    """Whether the comparisons detect a graph that ignores lengths."""
    control = validation.control
    difference = control.comparison.difference
    what = "Control: the native graph with its lengths disconnected, which is what exporting an unpacked LSTM gives,"
    needed = control.comparison.needed(of_batch=False) or 0.0
    if control.status != "passed" and not needed > control.tolerances.difference:
        return f"{what} could not be run ({control.reason}), so nothing shows that the comparisons detect it."
    if control.status == "failed":
        cosine = "" if control.comparison.cosine is None else f", cosine down to {control.comparison.cosine:.2f}"
        return f"{what} was caught: off by {difference or 0:.2f}{cosine}."
    if validation.lengths_matter:
        return f"{what} passed, although it is another function: these comparisons cannot be relied on."
    return (
        f"{what} passed, as expected: with a forward LSTM and pooling over real tokens alone, padding does not reach"
        " this encoder's vectors, and these comparisons say nothing about lengths."
    )


def _cell(verdict: Verdict) -> str:
    sign = f"({_SIGNS[verdict.status]})" if verdict.known else _SIGNS[verdict.status]
    if verdict.status == "passed":
        return f"{sign} {_figure(verdict.comparison.difference)}"
    if verdict.status == "failed":
        return f"{sign} {_deciding_value(verdict)}"
    return sign


def _deciding_value(verdict: Verdict) -> str:
    """The value by which a verdict failed, or a word if there is none."""
    found, allowed = verdict.comparison, verdict.tolerances
    if not verdict.environment:
        return "error"
    if not (found.needed(of_batch=False) or 0.0) <= allowed.difference:
        return _figure(found.difference)
    if found.cosine is not None and not found.cosine >= allowed.cosine:
        return f"cosine {found.cosine:.4f}"
    if not found.changed_share <= allowed.labels:
        return f"{found.changed_share:.1%} of labels"
    if not (found.needed(of_batch=True) or 0.0) <= allowed.batch:
        return f"{_figure(found.batch_difference)} by its batch"
    return "by its batch"


def _headline(validation: Validation) -> str:
    if validation.failed:
        names = ", ".join(f"{verdict.runtime} ({verdict.variant})" for verdict in validation.failed)
        return f"**Failed**: {names}.{_pytorch_failure(validation)}"
    if not validation.recommended:
        return "**Nothing passed**: no runtime computed a graph in float32 as PyTorch does."
    if validation.without_graph:
        without = ", ".join(validation.without_graph)
        return f"**Failed**: no graph in float32 passed on {without}; does the artifact have the portable one?"
    if not validation.passed:
        return "**Failed**: the comparisons cannot tell when lengths are ignored."
    ran = by_runtime([verdict for verdict in validation.verdicts if verdict.status != "not run"])
    not_run = [runtime for runtime in by_runtime(validation.verdicts) if runtime not in ran]
    rest = f" Not run: {', '.join(not_run)}." if not_run else ""
    return f"**Passed** on {len(ran)} runtimes; other failures are known limitations of a runtime or a graph.{rest}"


def _pytorch_failure(validation: Validation) -> str:
    """A remark if PyTorch's own batches failed too."""
    off = [v.comparison.difference for v in validation.failed if v.file == WEIGHTS_FILE and v.comparison.difference]
    if not off:
        return ""
    return (
        f" PyTorch itself, in batches, is {max(off):.1e} from its own single rows: either the golden vectors are of"
        f" other weights, or this model amplifies rounding beyond {LARGEST:.0e}, which is no fault of a runtime."
    )


def _reasons(verdicts: Sequence[Verdict]) -> list[str]:
    lines = [
        f"- {verdict.runtime}, {verdict.variant}: {verdict.status}{', as known' * verdict.known}: {verdict.reason}"
        for verdict in verdicts
        if verdict.status in ("failed", "refused")
    ]
    not_run: dict[tuple[str, str], list[str]] = {}
    for verdict in verdicts:
        if verdict.status == "not run":
            not_run.setdefault((verdict.runtime, verdict.reason), []).append(verdict.variant)
    lines += [f"- {runtime}, {', '.join(names)}: not run: {why}" for (runtime, why), names in not_run.items()]
    return lines or ["Everything passed."]


def _speed_section(validation: Validation) -> str:
    if not validation.speeds:
        return ""
    batches = list(next(iter(next(iter(validation.speeds.values())).values())))
    rows = []
    for runtime, by_variant in validation.speeds.items():
        for variant, times in by_variant.items():
            native = by_variant.get(NATIVE, times)
            cells = (f"{times[batch]:.2f} ({native[batch] / times[batch]:.2f})" for batch in batches)
            rows.append((runtime, variant, *cells))
    return (
        "## Speed\n\n"
        "Milliseconds per batch (rows x tokens per row), the median of several runs of one session at a time; in"
        " parentheses, the speed relative to that runtime's native graph."
        f" {cpu_model()}, {cpu_count()} cores.\n\n" + markdown_table(("runtime", "graph", *batches), rows)
    )


def _sum_section(validation: Validation) -> str:
    """How a sum over time is judged, and what that amounts to at each length."""
    if not validation.sum_scales:
        return ""
    rows = [(scale.tokens, f"{scale.divisor:.1f}", f"{scale.factor:.1f}") for scale in validation.sum_scales]
    columns = ("tokens, up to", "a difference is divided by up to", "times what another encoder's is")
    return f"### A sum over time\n\n{_SUM}\n\n{markdown_table(columns, rows)}"


def _rounding_section(validation: Validation) -> str:
    """What rounding does to an encoder that amplifies it, by length of text."""
    found = validation.rounding
    if found is None or not found.amplifies:
        return ""
    rows = [
        (tokens, f"{vectors:.1e}", f"{states:.1e}", f"{FACTOR * vectors:.1e}", f"{FACTOR * states:.1e}")
        for tokens, vectors, states in found.by_length(LENGTHS_SHOWN)
    ]
    columns = ("tokens, up to", "vectors, from float64", "states", "a vector may differ by", "a state by")
    return f"### Rounding\n\n{_ROUNDING}\n\n{markdown_table(columns, rows)}"


def _precision_sections(validation: Validation) -> list[str]:
    """The differences of lower precisions from float32: their distribution, then the golden rows one by one."""
    rows = []
    for verdict in validation.verdicts:
        vectors = verdict.comparison.rows
        if vectors:
            differences = np.percentile([row.difference for row in vectors], [50, 95, 100])
            cosines = np.percentile([row.cosine for row in vectors], [50, 5, 0])
            spread = (" / ".join(f"{d:.1e}" for d in differences), " / ".join(f"{c:.6f}" for c in cosines))
            of_batch = _figure(verdict.comparison.batch_difference)
            rows.append((verdict.runtime, verdict.variant, len(vectors), *spread, of_batch))
    if not rows:
        return []
    columns = (
        "runtime",
        "graph",
        "vectors",
        "difference, median / 95 % / largest",
        "cosine, median / 5 % / smallest",
        "between batches",
    )
    head = (
        "## Below float32\n\nLargest difference of a vector from PyTorch's in float32, over golden vectors and texts."
    )
    return [head, markdown_table(columns, rows), _golden_table(validation)]


def _golden_table(validation: Validation) -> str:
    """The golden vectors row by row, for each graph on the first runtime that ran it."""
    columns = {
        f"{verdict.variant}, {verdict.runtime}": [row for row in verdict.comparison.rows if row.case == GOLDEN_CASE]
        for verdict in validation.first_by_variant.values()
        if verdict.comparison.rows
    }
    rows = [
        (row[0].row, row[0].length, *(f"{each.difference:.1e}, cosine {each.cosine:.6f}" for each in row))
        for row in zip(*columns.values(), strict=True)
    ]
    return markdown_table(("golden row", "tokens", *columns), rows)


def _detail_section(verdict: Verdict) -> str:
    environment = ", ".join(f"{name} {value}" for name, value in verdict.environment.items())
    rows = [(result.case, f"{result.difference:.2e}") for result in verdict.comparison.worst_cases()]
    return (
        f"### {verdict.runtime}, {verdict.variant}\n\n"
        f"`{verdict.file}`; {environment or 'no environment: it failed before it was read'}\n\n"
        + markdown_table(("worst cases", "difference"), rows)
    )


def _present(validation: Validation) -> list[Variant]:
    return [v for v in EVERY_VARIANT.values() if any(verdict.variant == v.name for verdict in validation.verdicts)]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"
