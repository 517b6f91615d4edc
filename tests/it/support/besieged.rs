//! A cloud under attack, and a suite that is to notice nothing of it.

use presence_bridge::simulator::Tenant;
use presence_bridge::world::WorldSettings;

use super::stage::{Stage, Watcher, upns};

/// Resident memory of this process, in KiB: at its highest so far, and now. The attacker's own is in it.
fn memory() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let of = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    Some((of("VmHWM:")?, of("VmRSS:")?))
}

/// A cloud under attack, and a suite that is to notice nothing of it.
pub struct Besieged {
    pub stage: Stage,
    pub tenant: Tenant,
    pub suite: Watcher,
}

impl Besieged {
    pub async fn new(settings: WorldSettings) -> Self {
        let stage = Stage::new(settings).await;
        let tenant = stage.tenant("contoso.example", 20).await;
        let suite = stage.watching_all(&tenant, "bystander").await;
        suite.until_all_fresh().await;
        Self {
            stage,
            tenant,
            suite,
        }
    }

    /// Every change reaches the suite, while this goes on.
    pub async fn meanwhile<T>(&self, attack: impl Future<Output = T>) -> T {
        let person = &upns(&self.tenant)[0];
        let changes = async {
            for availability in ["Busy", "Away", "Available"].iter().cycle() {
                self.tenant.set_presence(person, availability, availability);
                self.suite.until_holds(person, availability).await;
            }
        };
        tokio::select! {
            result = attack => result,
            () = changes => unreachable!("for ever"),
        }
    }

    /// Nothing is left: the suite has lost nothing, and the next change comes.
    pub async fn is_well(&self) {
        let person = &upns(&self.tenant)[1];
        self.tenant
            .set_presence(person, "DoNotDisturb", "Presenting");
        self.suite.until_holds(person, "DoNotDisturb").await;
        self.suite.until_all_fresh().await;
    }
}

/// What runs must not take more memory than this.
pub async fn within_mebibytes<T>(most: u64, run: impl Future<Output = T>) -> T {
    let before = memory();
    let result = run.await;
    if let (Some((_, before)), Some((highest, _))) = (before, memory()) {
        let grown = highest.saturating_sub(before) >> 10;
        assert!(grown <= most, "{grown} MiB, of at most {most}");
    }
    result
}

/// How many connections the listener of the suites has refused for this reason.
pub fn refused(stage: &Stage, reason: &str) -> u64 {
    let metrics = stage.cloud().unwrap().metrics();
    let wanted = format!(
        "presence_cloud_connections_refused_total{{listener=\"grpc\",reason=\"{reason}\"}} "
    );
    let line = metrics.lines().find_map(|line| line.strip_prefix(&wanted));
    line.unwrap_or_else(|| panic!("no {wanted}"))
        .parse()
        .unwrap()
}
