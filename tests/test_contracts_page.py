"""docs/contracts.md tells of every rule and contract that there is, and of no other."""

import re
from pathlib import Path

from oracle_mutants import MUTANTS

from harness.oracle.contracts import CONTRACTS, RULES, contract_named
from harness.verdict import FindingKind

PAGE = Path(__file__).parent.parent / "docs/contracts.md"


def page_rows() -> dict[str, list[str]]:
    """The page's table: rule -> its other cells."""
    lines = re.findall(r"^\| `([a-z-]+)` \|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {rule: [cell.strip() for cell in rest.split(" | ")] for rule, rest in lines}


def test_the_page_names_every_rule_in_order_with_the_contracts_that_hold_it() -> None:
    rows = page_rows()
    assert list(rows) == list(RULES)
    for rule, (_says, contracts, kinds, source) in rows.items():
        assert contracts.split(", ") == [c.name for c in CONTRACTS.values() if RULES[rule] in c.rules]
        assert set(kinds.split(", ")) <= set(FindingKind.__members__), rule
        assert source, rule


def test_the_page_names_the_kind_of_each_mutant() -> None:
    rows = page_rows()
    wrong = [mutant for mutant in MUTANTS if mutant.kind not in rows[mutant.rule][2].split(", ")]
    assert not wrong


def test_the_page_names_every_contract_and_how_to_choose_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for contract in CONTRACTS:
        assert f"**`{contract}`**" in text and contract_named(contract).name == contract
    assert "--contract posix" in text and 'contract="posix"' in text
