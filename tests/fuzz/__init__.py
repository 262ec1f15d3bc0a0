"""Anything is called with anything: `make fuzz`. `docs/proof.md` tells what is called and what is checked."""
