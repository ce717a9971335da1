"""`sdmobile rewrites`: what the rewrite rules are, what they do to a checkpoint, and what each brings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdmobile.cli.arguments import CHECKPOINT, COMPONENTS, CommandGroup, Size, path, resolution_of
from sdmobile.cli.output import Output
from sdmobile.errors import OutputError, UnsupportedError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from sdmobile.rewrites.explanation import Explanation

rewrites_app = typer.Typer(
    help="The rewrite rules: what they are, what they do to a checkpoint, what each brings.",
    cls=CommandGroup,
    no_args_is_help=True,
)

Checkpoint = Annotated[
    Path | None, typer.Argument(parser=path, help=f"{CHECKPOINT} Without it, the bundled shapes-64.")
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
    resolution: Size = None,
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
    explanations: list[Explanation] = []
    for name in open_checkpoint(checkpoint).family.names if component is None else (component,):
        subject = capture_subject(checkpoint, name, device, resolution=resolution_of(resolution))
        explanations.append(explain_program(name, subject.program, rules_for(subject.profile, options)))
    output = Output(json)
    if json:
        output.data([explanation.to_json() for explanation in explanations])
    elif rule is not None:
        output.data(None, *_one_rule(rule, explanations))
    else:
        output.data(None, *(view for explanation in explanations for view in _explained(explanation)))


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
    resolution: Size = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the table as Markdown, too.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the phone's predicted latency, as FILE.svg.")] = None,
    json: Json = False,
) -> None:
    """Switch the rules on one after the other and show what each brings.

    Operators, peak memory of intermediates, error in float32 and with every value rounded to float16; of the exported
    files their operators, error and time on this machine, and the latency that is predicted for the phone.
    """
    from sdmobile.basics.files import write_whole
    from sdmobile.basics.scratch import temporary_folder
    from sdmobile.cli.progress import step_progress
    from sdmobile.device_profiles import device_key
    from sdmobile.reference.subject import capture_subject
    from sdmobile.report.ablation import markdown
    from sdmobile.rewrites.options import RewriteOptions
    from sdmobile.rewrites.registry import check_names, rules_for
    from sdmobile.validate.ablation import AblationPlan, run_ablation

    options = RewriteOptions(plain_ops, tuple(without or ()), tuple(allow_approximate or ()))
    check_names(options)
    for name, file in (("--output", output), ("--plot", plot)):
        if file is not None and not file.absolute().parent.is_dir():  # before minutes of work
            raise OutputError(f"the folder of {name} must exist", file.absolute().parent)
    if plot is not None and (graph_only or plot.suffix != ".svg"):
        raise UnsupportedError("--plot names an SVG file and needs the exported files", plot, "Leave --graph-only out")
    with step_progress() as progress, temporary_folder("ablation") as scratch:
        progress("capturing", 0, 1)
        subject = capture_subject(checkpoint, component, device, resolution=resolution_of(resolution))
        rules = rules_for(subject.profile, options)
        plan = AblationPlan(rules, options, not graph_only, rounds, repeats, threads, device_key(device))
        result = run_ablation(subject, plan, scratch, lambda what: progress(what, 0, 1))
    heading = f"{subject.checkpoint.name}, {component}, for {subject.profile.title}"
    rows = result.to_json()
    if output is not None:
        write_whole(output, markdown(heading, rows).encode())
    if plot is not None:
        write_whole(plot, result.waterfall(heading).encode())
    Output(json).data(rows, *([] if json else _ablated(heading, rows)))


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


def _one_rule(name: str, explanations: list[Explanation]) -> list[RenderableType]:
    """Returns a rule's own words, and a table of every place."""
    from rich.table import Table
    from rich.text import Text

    from sdmobile.rewrites.explanation import rule_text
    from sdmobile.rewrites.rule import Outcome

    table = Table("component", "module", "outcome", "nodes", "details")
    for explanation in explanations:
        for record in explanation.records(name):
            details = record.reason or ", ".join(f"{key} {value}" for key, value in record.details.items())
            nodes = f"{record.removed} → {record.added}" if record.outcome == Outcome.APPLIED else "–"
            table.add_row(explanation.component, record.module or "–", record.outcome.value, nodes, Text(details))
    return [Text(rule_text(name)), table]


def _ablated(heading: str, rows: list[dict[str, Any]]) -> list[Table]:
    """Returns what was measured, and the predictions where there are some."""
    from rich.table import Table

    from sdmobile.report import ablation

    measured = Table(
        title=heading, title_justify="left", caption=ablation.legend(rows), caption_justify="left", padding=(0, 0, 0, 1)
    )
    for index, name in enumerate(ablation.HEADINGS):
        measured.add_column(name, justify="left" if index == 0 else "right", no_wrap=True, overflow="fold")
    for row in ablation.cells(rows):
        measured.add_row(*row)
    if not (cells := ablation.predicted_cells(rows)):
        return [measured]
    predicted = Table(title=ablation.predicted_title(rows), title_justify="left")
    for index, name in enumerate(ablation.PREDICTED):
        predicted.add_column(name, justify="left" if index == 0 else "right")
    for row in cells:
        predicted.add_row(*row)
    return [measured, predicted]
