# The few commands. `make test` installs what it needs from Debian's packages and Python's index if it is missing.

.PHONY: demo test bench setup

demo:
	cargo run --release -- demo

test:
	bash scripts/test

bench:
	cargo bench

setup:
	bash scripts/setup
