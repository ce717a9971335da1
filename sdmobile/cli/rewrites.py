"""`sdmobile rewrites`: what the rewrite rules are, what they do to a checkpoint, and what each brings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdmobile.cli.arguments import COMPONENTS
from sdmobile.cli.output import Output, megabytes
from sdmobile.errors import OutputError, UnsupportedError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from sdmobile.rewrites.explanation import Explanation
    from sdmobile.validate.ablation import Ablation

rewrites_app = typer.Typer(
    help="The rewrite rules: what they are, what they do to a checkpoint, what each brings.", no_args_is_help=True
)

Checkpoint = Annotated[
    Path | None, typer.Argument(help="Diffusers folder or single file; without it, the bundled shapes-64.")
]
Device = Annotated[str, typer.Option(help="Device profile, which selects the rules.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
PlainOps = Annotated[bool, typer.Option("--plain-ops", help="Use no composite operators.")]
Without = Annotated[list[str] | None, typer.Option(help="Leave a rule out; may be repeated.")]
Approximate = Annotated[
    list[str] | None, typer.Option(help="Run a rule that changes what the model computes; may be repeated.")
]


@rewrites_app.command("list")
def list_rules(
    device: Annotated[str | None, typer.Option(help="Only the rules of this device, in their order.")] = None,
    plain_ops: PlainOps = False,
    json: Json = False,
) -> None:
    """List the rules, what they claim, and which devices use them."""
    from sdmobile.rewrites.explanation import described_rules

    rows = described_rules(device, plain_ops)
    Output(json).data(rows, *([] if json else [_rules(rows)]))


@rewrites_app.command()
def explain(
    checkpoint: Checkpoint = None,
    device: Device = "galaxy-s23-ultra",
    component: Annotated[str | None, typer.Option(help=f"{COMPONENTS}; without it, all.")] = None,
    rule: Annotated[
        str | None, typer.Option(help="Tell one rule in full: its equation, source and every place.")
    ] = None,
    plain_ops: PlainOps = False,
    without: Without = None,
    allow_approximate: Approximate = None,
    resolution: Annotated[int | None, typer.Option(help="Height = width of the picture, in pixels.")] = None,
    json: Json = False,
) -> None:
    """Say what the rules of a device did to a checkpoint, where they were refused and why."""
    from sdmobile.checkpoints import open_checkpoint
    from sdmobile.reference.subject import capture_subject
    from sdmobile.rewrites.explanation import explain_program
    from sdmobile.rewrites.options import RewriteOptions
    from sdmobile.rewrites.registry import check_names, rule_class, rules_for

    options = RewriteOptions(plain_ops, tuple(without or ()), tuple(allow_approximate or ()))
    check_names(options)
    if rule is not None:
        rule_class(rule)
    found: list[Explanation] = []
    for name in open_checkpoint(checkpoint).family.names if component is None else (component,):
        subject = capture_subject(checkpoint, name, device, resolution=resolution)
        found.append(explain_program(name, subject.program, rules_for(subject.profile, options)))
    output = Output(json)
    if json:
        output.data([explanation.to_json() for explanation in found])
    elif rule is not None:
        output.data(None, *_one_rule(rule, found))
    else:
        output.data(None, *(view for explanation in found for view in _explained(explanation)))


@rewrites_app.command("ablate")
def ablate_rules(
    checkpoint: Checkpoint = None,
    device: Device = "galaxy-s23-ultra",
    component: Annotated[str | None, typer.Option(help=f"{COMPONENTS}; without it, the denoiser.")] = None,
    graph_only: Annotated[
        bool, typer.Option("--graph-only", help="Export no files: operators, memory and error of the graphs alone.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds of timing, the states taking turns; 0 for none.")] = 3,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of a state in a round.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the runtime.")] = None,
    plain_ops: PlainOps = False,
    without: Without = None,
    allow_approximate: Approximate = None,
    resolution: Annotated[int | None, typer.Option(help="Height = width of the picture, in pixels.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the table as Markdown, too.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the phone's predicted latency, as FILE.svg.")] = None,
    json: Json = False,
) -> None:
    """Switch the rules on one after the other and show what each brings.

    Operators, peak memory of intermediates, error in float32 and with every value rounded to float16; of the exported
    files their operators, error and time on this machine, and the latency that is predicted for the phone.
    """
    import tempfile

    from sdmobile.cli.progress import step_progress
    from sdmobile.device_profiles import device_key
    from sdmobile.reference.subject import capture_subject
    from sdmobile.rewrites.options import RewriteOptions
    from sdmobile.rewrites.registry import check_names, rules_for
    from sdmobile.validate.ablation import AblationPlan, run_ablation

    options = RewriteOptions(plain_ops, tuple(without or ()), tuple(allow_approximate or ()))
    check_names(options)
    for name, path in (("--output", output), ("--plot", plot)):
        if path is not None and not path.absolute().parent.is_dir():  # before minutes of work
            raise OutputError(f"the folder of {name} must exist", path.absolute().parent)
    if plot is not None and (graph_only or plot.suffix != ".svg"):
        raise UnsupportedError("--plot names an SVG file and needs the exported files", plot, "Leave --graph-only out")
    with step_progress() as progress, tempfile.TemporaryDirectory(prefix="sdmobile-ablation-") as scratch:
        progress("capturing", 0, 1)
        subject = capture_subject(checkpoint, component, device, resolution=resolution)
        rules = rules_for(subject.profile, options)
        plan = AblationPlan(rules, options, not graph_only, rounds, repeats, threads, device_key(device))
        result = run_ablation(subject, plan, Path(scratch), lambda what: progress(what, 0, 1))
    heading = f"{subject.checkpoint.name}, {component}, for {subject.profile.title}"
    if output is not None:
        _write(output, _markdown(heading, result))
    if plot is not None:
        _write(plot, _waterfall(heading, result))
    Output(json).data(result.to_json(), *([] if json else [_table(heading, result), *_phone_table(result)]))


def _rules(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("rule", "claims", "what it does", "devices")
    for row in rows:
        table.add_row(row["name"], row["exactness"], row["title"], "\n".join(row["devices"]) or "–")
    return table


def _explained(explanation: Explanation) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{explanation.component}: {explanation.summary()}", title_justify="left")
    for name in ("rule", "applied", "refused", "operators", "why not"):
        table.add_column(name, justify="right" if name in ("applied", "refused", "operators") else "left")
    for step in explanation.steps:
        refusals = "\n".join(f"{reason} ({count}×, first {where})" for reason, count, where in step.refusals())
        reason = refusals or ("nothing here that it is about" if step.applied == 0 else "")
        table.add_row(step.rule, str(step.applied), str(step.refused), str(step.cost.operator_count), reason)
    return [table, Text()]


def _one_rule(name: str, found: list[Explanation]) -> list[RenderableType]:
    """Returns a rule's own words, and a table of every place."""
    from rich.table import Table
    from rich.text import Text

    from sdmobile.rewrites.explanation import rule_text
    from sdmobile.rewrites.rule import Outcome

    table = Table("component", "module", "outcome", "nodes", "details")
    for explanation in found:
        for record in explanation.records(name):
            details = record.reason or ", ".join(f"{key} {value}" for key, value in record.details.items())
            nodes = f"{record.removed} → {record.added}" if record.outcome == Outcome.APPLIED else "–"
            table.add_row(explanation.component, record.module or "–", record.outcome.value, nodes, Text(details))
    return [Text(rule_text(name)), table]


_HEADINGS = ("rules so far", "places", "ops", "in file", "peak", "f32 dB", "f16 dB", "file dB", "ms", "faster")
_PREDICTED = ("rules so far", "predicted ms", "interval", "faster")


def _cells(result: Ablation) -> list[tuple[str, ...]]:
    """Returns the rows of the table as text; "faster" is the first row's time over this row's."""
    first = result.measured[0].median
    rows: list[tuple[str, ...]] = []
    for index, (row, measured) in enumerate(zip(result.rows, result.measured, strict=True)):
        median = measured.median
        rows.append(
            (
                row.rule if index == 0 else f"+ {row.rule}",
                "–" if index == 0 else str(row.applied),
                str(row.cost.operator_count),
                "–" if measured.file_operators is None else str(measured.file_operators),
                megabytes(row.cost.peak_bytes),
                "same" if math.isinf(row.float32_db) else f"{row.float32_db:.1f}",
                f"{row.float16_db:.1f}",
                "–" if measured.file_db is None else f"{measured.file_db:.1f}",
                "–" if median is None else f"{median:.1f}",
                "–" if median is None or first is None else f"{first / median:.2f}×",
            )
        )
    return rows


def _phone_cells(result: Ablation) -> list[tuple[str, ...]]:
    """Returns what is predicted for the phone, a row per state; "faster" is the first row's time over this row's."""
    first = result.predicted[0].milliseconds
    rows: list[tuple[str, ...]] = []
    for index, (row, each) in enumerate(zip(result.rows, result.predicted, strict=True)):
        name = row.rule if index == 0 else f"+ {row.rule}"
        if each.milliseconds is None or each.low is None or each.high is None:
            rows.append((name, "–", "–", "–"))
            continue
        ratio = "–" if first is None else f"{first / each.milliseconds:.2f}×"
        rows.append((name, f"{each.milliseconds:.3g}", f"{each.low:.3g} – {each.high:.3g}", ratio))
    return rows


def _phone_title(result: Ablation) -> str:
    phone = result.predicted[0]
    return f"predicted for {phone.device}, {phone.unit}, from the files; not measured"


def _phone_table(result: Ablation) -> list[Table]:
    from rich.table import Table

    if not result.predicted:
        return []
    table = Table(title=_phone_title(result), title_justify="left")
    for index, name in enumerate(_PREDICTED):
        table.add_column(name, justify="left" if index == 0 else "right")
    for cells in _phone_cells(result):
        table.add_row(*cells)
    return [table]


def _waterfall(heading: str, result: Ablation) -> str:
    from sdmobile.prediction.plots import waterfall_svg

    pairs = zip(result.rows, result.predicted, strict=False)
    steps = [(row.rule, 1e-3 * each.milliseconds) for row, each in pairs if each.milliseconds is not None]
    if not steps:
        raise UnsupportedError("a plot of predictions needs a device with compute units", heading, "Leave --plot out")
    return waterfall_svg(steps, f"{heading}: predicted")


def _table(heading: str, result: Ablation) -> Table:
    from rich.table import Table

    table = Table(
        title=heading, title_justify="left", caption=_legend(result), caption_justify="left", padding=(0, 0, 0, 1)
    )
    for index, name in enumerate(_HEADINGS):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True, overflow="fold")
    for cells in _cells(result):
        table.add_row(*cells)
    return table


def _markdown(heading: str, result: Ablation) -> str:
    lines = [f"### {heading}", "", *_markdown_rows(_HEADINGS, _cells(result)), "", _legend(result), ""]
    if result.predicted:
        lines += [_phone_title(result) + ":", "", *_markdown_rows(_PREDICTED, _phone_cells(result)), ""]
    return "\n".join(lines)


def _markdown_rows(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    head = [" | ".join(("", *headings, "")).strip(), "|---" * len(headings) + "|"]
    return [*head, *("| " + " | ".join(cells) + " |" for cells in rows)]


def _legend(result: Ablation) -> str:
    """Returns what the columns mean."""
    clock = result.measured[0].clock
    time = "" if clock is None else f" ms: median, {clock}, the states taking turns; faster: first row over this one."
    return (
        "ops: operators of the graph; in file: of the exported file. peak: intermediates of the graph in float16. "
        "f32, f16: PSNR of the graph against the captured one in float32, and with every value rounded to float16. "
        "file: PSNR of the exported file against float32 PyTorch." + time
    )


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, "utf-8")
    part.replace(path)
