"""Bundles that were made once and are kept: older versions must stay readable, and what they show must come again."""

from pathlib import Path

import pytest
from cli_support import harness

from harness.trial import bundle as bundles
from harness.trial.check import replay
from harness.verdict import ExitCode, FindingKind, Verdict

pytestmark = pytest.mark.root

BUNDLES = Path(__file__).parent.parent / "fixtures/bundles"


def test_a_bundle_of_the_first_schema_is_replayed(tmp_path: Path) -> None:
    """Before there were plans. The check's file is in the bundle and nowhere else."""
    bundle = bundles.load(str(BUNDLES / "schema-1-lost-entry.crash"))
    assert bundle.manifest.schema == 1 and bundle.manifest.plan is None
    ran = harness("replay", str(BUNDLES / "schema-1-lost-entry.crash"), cwd=tmp_path)
    assert ran.status == ExitCode.CORRUPTED, ran
    assert "the verdict recorded in the bundle" in ran.out and "LOST_ACKED" in ran.out


def test_btrfs_leaves_a_renamed_file_under_both_names() -> None:
    """reports/track-record.md, 1. A kernel in which that is repaired judges the same disk to be intact."""
    bundle = bundles.load(str(BUNDLES / "btrfs-two-names-after-rename.crash"))
    assert bundle.manifest.plan is not None and len(bundle.manifest.plan.all) == 5
    replayed = replay(bundle)
    assert replayed.verdict in (Verdict.CORRUPTED, Verdict.INTACT), replayed.findings
    for finding in replayed.findings:
        assert finding.kind is FindingKind.META and "[rule atomic-names]" in finding.summary


def test_btrfs_loses_a_name_that_was_exchanged() -> None:
    """reports/track-record.md, 2."""
    bundle = bundles.load(str(BUNDLES / "btrfs-exchanged-name-gone.crash"))
    assert bundle.manifest.plan is not None and len(bundle.manifest.plan.all) == 4
    replayed = replay(bundle)
    assert replayed.verdict in (Verdict.CORRUPTED, Verdict.INTACT), replayed.findings
    for finding in replayed.findings:
        assert finding.kind is FindingKind.LOST_ACKED and "[rule setup-synced]" in finding.summary
