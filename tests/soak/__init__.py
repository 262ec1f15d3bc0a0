"""Everything at once for minutes, beside a ledger that shares no code with the router: `make soak`.

`docs/proof.md` tells what is run and what is checked. `epoch.py` is the place to begin reading.
"""
