"""`harness rejudge`: every stored bundle again, with the kernel, the tools and the oracle of now."""

import sys
from collections.abc import Sequence

import click

import harness
from harness.campaign.rejudging import Known, Rejudged, known_bundles, rejudge
from harness.campaign.store import Store
from harness.cli import exits, options
from harness.cli.recorded import Recorder, recorded
from harness.cli.scenarios import replay_test
from harness.cli.verdicts import write_json
from harness.errors import Misuse
from harness.reporting import findings
from harness.reporting.console import console
from harness.reporting.terminal import Page
from harness.verdict import ExitCode, Verdict, worst


@click.command("rejudge", epilog=exits.epilog())
@click.argument("files", metavar="[FILE.crash]...", nargs=-1)
@options.reports_option
@options.store_option
@options.report_options
def command(
    files: tuple[str, ...], reports: str, no_store: bool, json_path: str, quiet: bool, verbose: bool
) -> ExitCode:
    """Build the disk of each bundle in the store again (or of each FILE.crash), let the kernel of now recover it, run
    its check, and say whether the verdict is the recorded one. The exit status is the worst verdict of now, so 0 where
    everything that was found is gone.

    A bundle that a pytest test made runs that test again; start it where the tests are. One that is missing, or whose
    test is elsewhere, is UNKNOWN.
    """
    known = _known(files, reports)
    with recorded(reports, "rejudge", 0, None, store=not no_store) as run:
        run.begin()
        found, interrupted = _all(known, run, quiet=quiet)
        verdict = worst(one.now for one in found)
        run.end(verdict, interrupted=interrupted)
    code = ExitCode.INTERRUPTED if interrupted else run.settled(verdict.exit_code)
    if found:
        out = console(sys.stderr if json_path == "-" else sys.stdout)
        findings.show_rejudged(Page(out, verbose=verbose), found, asked=len(known))
    if not write_json(json_path, lambda: findings.rejudged_as_json(found, code, harness.__version__)):
        code = code or ExitCode.UNKNOWN
    if interrupted:
        print("interrupted", file=sys.stderr)
    return code


def _known(files: Sequence[str], reports: str) -> list[Known]:
    if files:
        stored = {each.path: each for each in _stored(reports)} if Store(reports).exists else {}
        return [stored.get(file, Known(path=file)) for file in files]
    known = _stored(reports)
    if not known:
        raise Misuse(f"the store in {reports} knows no bundle", "name bundles: harness rejudge FILE.crash")
    return known


def _stored(reports: str) -> list[Known]:
    store = Store.read(reports)
    return known_bundles(store.bundles(), store.bugs(), reports)


def _all(known: Sequence[Known], run: Recorder, *, quiet: bool) -> tuple[list[Rejudged], bool]:
    """What came of each, and whether Ctrl-C ended it."""
    found: list[Rejudged] = []
    try:
        for each in known:
            one = rejudge(each, run.reports, _replay_test)
            found.append(one)
            run.add([one.kept(run.reports)])
            if not quiet:
                print(findings.rejudged_line(one), file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        return found, True
    return found, False


def _replay_test(test: str, bundle: str) -> Verdict:
    return replay_test(test, bundle, to_stderr=True)[0]
