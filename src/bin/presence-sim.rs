//! presence-sim

fn main() {}
