"""Reproduction of papers: table rows, runs, verdicts and the ledger."""
