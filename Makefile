# The few commands. `make test` installs what it needs from Debian's packages and Python's index if it is missing.

.PHONY: demo test bench fuzz setup

demo:
	cargo run --release -- demo

test:
	bash scripts/test

bench:
	cargo bench --bench performance -- --write
	cargo bench --bench apply_and_fanout
	cargo bench --bench change_to_suite

fuzz:
	bash scripts/fuzz

setup:
	bash scripts/setup
