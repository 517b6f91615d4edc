//! presence-cloud

fn main() {}
