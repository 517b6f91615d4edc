//! Behaviours of the whole product. The list of modules is the table of contents.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "tests say what they mean in their names"
)]

mod a_killed_cloud_loses_nothing;
mod browser_harness;
mod browser_onboarding;
mod browser_outcomes;
mod demo_runs;
mod documented_examples;
mod graph_contract;
mod layering;
mod logs_hold_no_secrets;
mod microsoft_misbehaves;
mod onboarding_ends_with_presence;
mod onboarding_is_guarded;
mod presence_reaches_the_suite;
mod python_client;
mod simulator_entra;
mod simulator_faults;
mod simulator_graph;
mod simulator_support;
mod streams_keep_their_rules;
mod support;
