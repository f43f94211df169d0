"""--harness-replay: one crash state out of a bundle, judged by the check of the test that found it."""

from harness.errors import BadBundle
from harness.plugin.text import shown_path
from harness.trial import bundle as bundles
from harness.trial import check as trial
from harness.trial.judging import CheckerFactory
from harness.trial.recording import lost_atoms
from harness.trial.report import Found, Report
from harness.verdict import Verdict
from harness.volume import VolumeSpec

_PLACE_MARK = " of the test"


class Replay:
    """An opened bundle and what is to be done with it."""

    def __init__(self, path: str) -> None:
        """Raises BadBundle or Misuse for a file that cannot be replayed."""
        self.path = path
        self.bundle = bundles.load(path)
        if self.bundle.manifest.state is None:
            raise BadBundle(f"{path} holds a whole recording and no chosen state", "judge it: harness judge FILE")
        self.state = self.bundle.manifest.state.state()

    @property
    def scope(self) -> str:
        return f"the one state in {shown_path(self.path)}"

    def is_of(self, spec: VolumeSpec, place: str) -> bool:
        """Whether this volume and judgement of the test are those that the bundle came from."""
        manifest = self.bundle.manifest
        places = [note for note in manifest.notes if note.endswith(_PLACE_MARK)]
        return manifest.spec == spec and (not places or place in places)

    def judged(self, checker: CheckerFactory) -> Report:
        """The report of the one state. A finding of it is not confirmed again: it is the confirmation."""
        replayed = trial.replay(self.bundle, checker)
        report = self._report()
        lost = len(lost_atoms(self.bundle.recording.space(self.bundle.manifest.settings), self.state))
        report.judged = 1
        report.found = [
            Found(finding=finding, state=self.state, lost=lost, bundle=self.path) for finding in replayed.findings
        ]
        report.unknown = int(replayed.verdict is Verdict.UNKNOWN)
        return report

    def elsewhere(self) -> Report:
        """For another volume or judgement of the same test: nothing is judged, and nothing claimed."""
        return self._report()

    def compared(self, report: Report) -> str:
        """Whether it came out as it did when the bundle was made."""
        finding = self.bundle.manifest.finding
        recorded = finding.verdict if finding else Verdict.INTACT
        if report.verdict is recorded:
            return "the verdict that is recorded in the bundle"
        return f"the bundle says {recorded}: this code, kernel or check is not what it was made with"

    def _report(self) -> Report:
        settings = self.bundle.manifest.settings
        return Report(model=settings.model, seed=settings.seed, allowed=1, selected=1, complete=False, notes=[])
