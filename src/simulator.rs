//! A simulated Microsoft with simulated suites: demo, tests and benches run on it.
