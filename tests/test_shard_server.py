"""A shard server keeps its labs warm, and gives up the ones that it has not used for longest."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.root


def test_a_server_lets_go_of_the_lab_that_it_used_least_lately() -> None:
    """The process of a later lab holds the ends of all pipes that were open when it was forked."""
    script = """
from harness.campaign.shard_server import Labs
from harness.plan.operations import Creat
from harness.plan.plan import Plan
from harness.settings import Settings

plan = Plan(operations=(Creat(path="foo"),))
with Labs(most=2) as labs:
    for options in ("", "noatime", "data=journal", ""):
        print(labs.get(Settings(fs="ext4", size=16 << 20, mount_options=options)).judge(plan).report.verdict)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert ran.stdout.split() == ["INTACT"] * 4, ran
