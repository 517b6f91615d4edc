//! What was asked of the simulated Microsoft.

use std::collections::BTreeMap;

use crate::model::TenantId;

/// Kinds of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// The discovery document of Entra.
    Discovery,
    /// The signing keys of Entra.
    Keys,
    /// The sign-in and consent pages.
    Authorize,
    /// The token endpoint.
    Token,
    /// Presence, in bulk or of one person.
    Presence,
    /// Users, one or a list.
    Users,
    /// `$batch`; counted once, whatever is in it.
    Batch,
    /// One request inside a `$batch`.
    BatchItem,
    /// Anything else.
    Other,
}

impl Endpoint {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Discovery,
        Self::Keys,
        Self::Authorize,
        Self::Token,
        Self::Presence,
        Self::Users,
        Self::Batch,
        Self::BatchItem,
        Self::Other,
    ];

    /// Its name in the control API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Discovery => "discovery",
            Self::Keys => "keys",
            Self::Authorize => "authorize",
            Self::Token => "token",
            Self::Presence => "presence",
            Self::Users => "users",
            Self::Batch => "batch",
            Self::BatchItem => "batch-item",
            Self::Other => "other",
        }
    }

    /// The kind with that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.as_str() == name)
    }

    /// Whether it is a request to Graph from outside.
    pub const fn is_graph(self) -> bool {
        matches!(
            self,
            Self::Presence | Self::Users | Self::Batch | Self::Other
        )
    }
}

/// How many requests, by outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// All requests.
    pub total: u64,
    /// Answered with a status below 400.
    pub ok: u64,
    /// Answered with 429.
    pub throttled: u64,
    /// Answered with any other status from 400 on.
    pub errors: u64,
}

impl Count {
    fn add(&mut self, status: u16) {
        self.total += 1;
        match status {
            429 => self.throttled += 1,
            400.. => self.errors += 1,
            _ => self.ok += 1,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            total: self.total + other.total,
            ok: self.ok + other.ok,
            throttled: self.throttled + other.throttled,
            errors: self.errors + other.errors,
        }
    }
}

/// Requests so far. A request whose connection was broken or held by a fault counts with the status it would have had.
#[derive(Debug, Clone, Default)]
pub struct RequestCounts {
    by: BTreeMap<(Endpoint, Option<TenantId>), Count>,
    /// Most ids in one presence request.
    pub largest_ids: usize,
}

impl RequestCounts {
    /// Requests of one kind for one tenant.
    pub fn of(&self, tenant: TenantId, endpoint: Endpoint) -> Count {
        self.by
            .get(&(endpoint, Some(tenant)))
            .copied()
            .unwrap_or_default()
    }

    /// Requests of one kind for all tenants, and for none: an unknown token, the authority `organizations`.
    pub fn all(&self, endpoint: Endpoint) -> Count {
        self.iter()
            .filter(|(e, _, _)| *e == endpoint)
            .fold(Count::default(), |sum, (_, _, count)| sum.plus(count))
    }

    /// Each kind and tenant that occurred.
    pub fn iter(&self) -> impl Iterator<Item = (Endpoint, Option<TenantId>, Count)> + '_ {
        self.by.iter().map(|((e, t), c)| (*e, *t, *c))
    }

    pub(super) fn record(&mut self, endpoint: Endpoint, tenant: Option<TenantId>, status: u16) {
        self.by.entry((endpoint, tenant)).or_default().add(status);
    }
}
