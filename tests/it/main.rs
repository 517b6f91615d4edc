//! Behaviours of the whole product. The list of modules is the table of contents.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "tests say what they mean in their names"
)]

mod a_connection_nobody_uses_is_looked_after;
mod a_killed_cloud_loses_nothing;
#[cfg(debug_assertions)] // elsewhere there is nothing to park at
mod a_killed_refresh_is_noticed;
mod a_listener_holds;
mod a_removed_tenant_leaves_nothing;
mod admin_api;
mod admin_api_contract;
mod alerts_are_told;
mod an_issuer_lies;
mod backup_restores;
mod browser_harness;
mod browser_many_tenants;
mod browser_onboarding;
mod browser_operators;
mod browser_outcomes;
mod command_line;
mod demo_runs;
mod doctor_names_the_hop;
mod documented_commands;
mod documented_examples;
mod every_aadsts_code;
mod frames_are_bounded;
mod fuzz_corpus;
mod graph_contract;
mod keys_rotate_while_serving;
mod layering;
mod load_tells_the_truth;
mod logs_hold_no_secrets;
mod metrics_are_honest;
mod microsoft_is_hostile;
mod microsoft_misbehaves;
mod onboarding_ends_with_presence;
mod onboarding_is_guarded;
mod operators_act;
mod operators_see_and_act;
mod operators_sign_in;
mod operators_sign_in_by_oidc;
mod our_credential_is_replaced;
mod presence_reaches_the_suite;
mod probes_tell_the_truth;
mod python_client;
mod simulator_accounts;
mod simulator_entra;
mod simulator_faults;
mod simulator_graph;
mod simulator_support;
mod stories;
mod streams_keep_their_rules;
mod suites_that_mean_harm;
mod support;
mod the_image_is_small_and_unprivileged;
mod the_registration_is_what_we_ask_for;
mod traces_and_request_ids;
mod units_are_hardened;
