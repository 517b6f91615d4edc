//! presence-agent

fn main() {}
