"""The whole engine against a simulated world: disk, clock, service and power are ours.

Every schedule is one random history of a folder, a faulty service and a daemon that crashes; the
same seed gives the same history. After each step the invariants are checked, and once all faults
are healed the remote files must equal the local ones.

    python -m tests.simulation --runs 100000

runs as many schedules on every core, then shows that each planted bug is caught. `--seed N` repeats
one and tells what happened in it.
"""
