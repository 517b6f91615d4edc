//! Which tenants are asked for, and in which pages.

use std::collections::HashMap;
use std::hash::BuildHasher;

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

/// The tenants that fit, by name: those after one of them, and at most so many. `None`: there is no such one.
pub fn page<S: BuildHasher>(
    seen: Overview,
    domains: &HashMap<TenantId, String, S>,
    filter: &TenantFilter,
    after: Option<TenantId>,
    most: Option<usize>,
) -> Option<Tenants> {
    // The order does not change with what happens meanwhile.
    let place = |line: &TenantLine| (line.name.to_lowercase(), line.id);
    let mut tenants = seen.tenants;
    let after = match after {
        Some(id) => Some(place(tenants.iter().find(|line| line.id == id)?)),
        None => None,
    };
    tenants.retain(|line| filter.fits(line, domains.get(&line.id).map(String::as_str)));
    let found = tenants.len();
    tenants.sort_by_cached_key(place);
    if let Some(after) = after {
        tenants.retain(|line| place(line) > after);
    }
    let most = most.unwrap_or(usize::MAX);
    let more = tenants.len() > most;
    tenants.truncate(most);
    Some(Tenants {
        at: seen.at,
        found,
        next: tenants.last().filter(|_| more).map(|line| line.id),
        tenants,
    })
}
