//! Tokens with which programs use the admin API.

use std::path::Path;

use clap::{Subcommand, ValueEnum};
use presence_bridge::cloud::operations::api_tokens::USUAL;
use presence_bridge::cloud::store::Role;
use serde_json::json;

use super::output::{Column, Side, say, say_json, table, time};
use super::talk::{Ask, Intent, Talk};

#[derive(Subcommand)]
pub enum ApiToken {
    /// Makes a token and prints it. It is shown once and stored nowhere.
    Make {
        /// Tells it from others, also in the audit log: letters, digits, '.', '-' and '_'.
        name: String,
        /// What who has it may do.
        #[arg(long, value_enum, default_value = "viewer")]
        role: Rights,
        /// How long it is good, in days.
        #[arg(long, default_value_t = USUAL.as_secs() / 86_400, value_parser = clap::value_parser!(u64).range(1..=365))]
        days: u64,
    },
    /// Lists the tokens, never what is secret of them.
    List,
    /// Revokes a token: from now on it opens nothing.
    Revoke {
        /// Its name.
        name: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Rights {
    /// Sees everything, does nothing.
    Viewer,
    /// Sees and does everything.
    Operator,
}

pub async fn api_token(config: &Path, ask: &Ask, command: ApiToken) -> anyhow::Result<()> {
    let intent = match command {
        ApiToken::List => Intent::Look,
        ApiToken::Make { .. } | ApiToken::Revoke { .. } => Intent::Act,
    };
    let talk = Talk::open(config, ask, intent).await?;
    match command {
        ApiToken::Make { name, role, days } => {
            let role = match role {
                Rights::Viewer => Role::Viewer,
                Rights::Operator => Role::Operator,
            };
            let made = talk.make_api_token(&name, role, days).await?;
            if ask.json {
                return say_json(&made);
            }
            say(&format!(
                "Token {} ({}), good until {}. It is not shown again:\n",
                made.name,
                made.role.as_str(),
                time(made.expires_at)
            ));
            say(&format!("    {}", made.token));
        }
        ApiToken::List => {
            let found = talk.api_tokens().await?;
            if ask.json {
                return say_json(&found);
            }
            if found.tokens.is_empty() {
                say("There is no token. Make one: presence-cloud api-token make");
                return Ok(());
            }
            let rows: Vec<_> = found
                .tokens
                .iter()
                .map(|t| {
                    vec![
                        t.name.clone(),
                        t.role.as_str().into(),
                        time(t.created_at),
                        time(t.expires_at),
                        if t.expires_at <= found.at {
                            "ended"
                        } else {
                            "good"
                        }
                        .into(),
                    ]
                })
                .collect();
            table(
                &[
                    Column("TOKEN", Side::Left, 0),
                    Column("ROLE", Side::Left, 0),
                    Column("MADE", Side::Left, 2),
                    Column("ENDS", Side::Left, 1),
                    Column("STATE", Side::Left, 0),
                ],
                &rows,
            );
        }
        ApiToken::Revoke { name } => {
            talk.revoke_api_token(&name).await?;
            if ask.json {
                return say_json(&json!({ "name": name, "status": "revoked" }));
            }
            say(&format!("Revoked {name}. It opens nothing any more."));
        }
    }
    Ok(())
}
