//! Which tenants are asked for, and in which pages.

use std::collections::HashMap;
use std::hash::BuildHasher;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::answers::Tenants;
use super::view::{Attention, Overview, TenantLine};
use crate::model::{HealthState, TenantId};

/// The words of the states of a connection.
pub const HEALTHS: [&str; 7] = [
    HealthState::Pending.as_str(),
    HealthState::Connected.as_str(),
    HealthState::Degraded.as_str(),
    HealthState::NeedsReauthorization.as_str(),
    HealthState::NeedsAdministrator.as_str(),
    HealthState::Suspended.as_str(),
    HealthState::Gone.as_str(),
];

/// The words for how much a tenant needs somebody.
pub const ATTENTIONS: [&str; 5] = [
    Attention::Now.as_str(),
    Attention::Watch.as_str(),
    Attention::Soon.as_str(),
    Attention::None.as_str(),
    Attention::Resting.as_str(),
];

/// What tenants must have in common to be shown; what is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct TenantFilter {
    /// The word of the state of the connection.
    pub health: Option<String>,
    /// How much it needs somebody.
    pub attention: Option<String>,
    /// A part of the name, the domain or the id, in any case.
    pub search: Option<String>,
}

impl TenantFilter {
    /// Whether a tenant with that domain is shown.
    pub fn fits(&self, line: &TenantLine, domain: Option<&str>) -> bool {
        let is = |wanted: &Option<String>, word: &str| wanted.as_deref().is_none_or(|w| w == word);
        let search = self.search.as_deref().unwrap_or_default();
        let search = search.trim().to_lowercase();
        is(&self.health, &line.health.state)
            && is(&self.attention, line.attention.as_str())
            && (search.is_empty()
                || line.name.to_lowercase().contains(&search)
                || line.id.to_string().contains(&search)
                || domain.is_some_and(|d| d.contains(&search)))
    }
}

/// After which tenant a page begins. The order does not change with what happens meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(String, TenantId);

impl Cursor {
    fn of(line: &TenantLine) -> Self {
        Self(line.name.to_lowercase(), line.id)
    }

    fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}{}", self.1, self.0))
    }

    /// From the text of an earlier page.
    pub fn parse(text: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (id, name) = text.split_at_checked(36)?;
        Some(Self(name.to_owned(), id.parse().ok()?))
    }
}

/// The tenants that fit, by name: those after a cursor, and at most so many.
pub fn page<S: BuildHasher>(
    seen: Overview,
    domains: &HashMap<TenantId, String, S>,
    filter: &TenantFilter,
    after: Option<&Cursor>,
    most: Option<usize>,
) -> Tenants {
    let mut tenants = seen.tenants;
    tenants.retain(|line| filter.fits(line, domains.get(&line.id).map(String::as_str)));
    let found = tenants.len();
    tenants.sort_by_cached_key(Cursor::of);
    if let Some(after) = after {
        tenants.retain(|line| Cursor::of(line) > *after);
    }
    let most = most.unwrap_or(usize::MAX);
    let more = tenants.len() > most;
    tenants.truncate(most);
    let last = tenants.last().filter(|_| more);
    Tenants {
        at: seen.at,
        found,
        next: last.map(|line| Cursor::of(line).to_text()),
        tenants,
    }
}
