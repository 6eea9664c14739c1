"""Commands that compare the ledger with the service: `adopt` and `verify`."""
