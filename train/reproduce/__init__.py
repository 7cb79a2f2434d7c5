"""Papers against our runs: rows, claims, runner, verdicts, ledger."""
