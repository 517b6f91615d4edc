//! Configuration: one TOML file per binary, overridden by the environment, checked once.

pub mod agent;
pub mod alerts;
pub mod cloud;
#[cfg(test)]
mod examples;
pub mod listeners;
pub mod load;
pub mod presence_ini;
