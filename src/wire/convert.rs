use std::time::Duration;

use super::v1;
use crate::model::{
    Activity, Availability, CoverageState, Epoch, Health, HealthState, Position, Presence,
    Sequence, Timestamp, WorkLocation,
};

/// A protobuf time outside of what can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a time in the message is out of range")]
pub struct InvalidTime;

/// To protobuf.
pub fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    let millis = at.as_millis();
    prost_types::Timestamp {
        seconds: millis.div_euclid(1000),
        nanos: i32::try_from(millis.rem_euclid(1000) * 1_000_000).unwrap_or(0),
    }
}

impl TryFrom<prost_types::Timestamp> for Timestamp {
    type Error = InvalidTime;

    fn try_from(at: prost_types::Timestamp) -> Result<Self, InvalidTime> {
        at.seconds
            .checked_mul(1000)
            .and_then(|ms| ms.checked_add(i64::from(at.nanos) / 1_000_000))
            .map(Self::from_millis)
            .ok_or(InvalidTime)
    }
}

/// To protobuf.
pub fn duration(span: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

/// To protobuf.
pub fn position(position: Position) -> v1::Position {
    v1::Position {
        epoch: position.epoch.0,
        sequence: position.sequence.0,
    }
}

impl From<v1::Position> for Position {
    fn from(p: v1::Position) -> Self {
        Self {
            epoch: Epoch(p.epoch),
            sequence: Sequence(p.sequence),
        }
    }
}

/// One known value, its place in the contract, and Microsoft's usual spelling of it.
pub trait Names: Sized + 'static {
    /// Number in the contract, zero for unknown values.
    fn number(&self) -> i32;
    /// The value a number stands for; `None` for zero and for numbers this version does not know.
    fn from_number(number: i32) -> Option<Self>;
}

macro_rules! names {
    ($model:ident, $wire:ident { $($variant:ident),+ $(,)? }) => {
        impl Names for $model {
            fn number(&self) -> i32 {
                match self {
                    $(Self::$variant => v1::$wire::$variant as i32,)+
                    Self::Other(_) => 0,
                }
            }

            fn from_number(number: i32) -> Option<Self> {
                match v1::$wire::try_from(number).ok()? {
                    $(v1::$wire::$variant => Some(Self::$variant),)+
                    v1::$wire::Unspecified => None,
                }
            }
        }
    };
}

names!(
    Availability,
    Availability {
        Available,
        AvailableIdle,
        Away,
        BeRightBack,
        Busy,
        BusyIdle,
        DoNotDisturb,
        Offline,
        PresenceUnknown,
    }
);
names!(
    Activity,
    Activity {
        Available,
        Away,
        BeRightBack,
        Busy,
        DoNotDisturb,
        InACall,
        InAConferenceCall,
        Inactive,
        InAMeeting,
        Offline,
        OffWork,
        OutOfOffice,
        PresenceUnknown,
        Presenting,
        UrgentInterruptionsOnly,
        Focusing,
        AvailableInactive,
    }
);
names!(
    WorkLocation,
    WorkLocation {
        Office,
        Remote,
        TimeOff
    }
);

/// To protobuf.
pub fn presence(
    upn: &str,
    presence: &Presence,
    sequence: Sequence,
    confirmed_at: Timestamp,
    changed_at: Timestamp,
) -> v1::Presence {
    v1::Presence {
        upn: upn.to_owned(),
        availability: presence.availability.number(),
        activity: presence.activity.number(),
        availability_raw: match &presence.availability {
            Availability::Other(text) => text.to_string(),
            _ => String::new(),
        },
        activity_raw: match &presence.activity {
            Activity::Other(text) => text.to_string(),
            _ => String::new(),
        },
        out_of_office: presence.out_of_office,
        status_message: presence.status_message.as_ref().map(ToString::to_string),
        work_location: presence.work_location.as_ref().map(Names::number),
        sequence: sequence.0,
        confirmed_at: Some(timestamp(confirmed_at)),
        changed_at: Some(timestamp(changed_at)),
    }
}

impl From<&v1::Presence> for Presence {
    fn from(p: &v1::Presence) -> Self {
        Self {
            availability: Availability::from_number(p.availability)
                .unwrap_or_else(|| Availability::Other(p.availability_raw.as_str().into())),
            activity: Activity::from_number(p.activity)
                .unwrap_or_else(|| Activity::Other(p.activity_raw.as_str().into())),
            out_of_office: p.out_of_office,
            status_message: p.status_message.as_deref().map(Into::into),
            work_location: p.work_location.and_then(WorkLocation::from_number),
        }
    }
}

impl From<CoverageState> for v1::CoverageState {
    fn from(state: CoverageState) -> Self {
        match state {
            CoverageState::Monitored => Self::Monitored,
            CoverageState::Resolving => Self::Resolving,
            CoverageState::NotFound => Self::NotFound,
            CoverageState::Duplicate => Self::Duplicate,
            CoverageState::Guest => Self::Guest,
            CoverageState::PresenceUnknown => Self::PresenceUnknown,
            CoverageState::OverPlan => Self::OverPlan,
            CoverageState::NoPermission => Self::NoPermission,
            CoverageState::Invalid => Self::Invalid,
            CoverageState::Quarantined => Self::Quarantined,
        }
    }
}

impl v1::CoverageState {
    /// To the model; `None` for values this version does not know.
    pub fn to_model(self) -> Option<CoverageState> {
        Some(match self {
            Self::Unspecified => return None,
            Self::Monitored => CoverageState::Monitored,
            Self::Resolving => CoverageState::Resolving,
            Self::NotFound => CoverageState::NotFound,
            Self::Duplicate => CoverageState::Duplicate,
            Self::Guest => CoverageState::Guest,
            Self::PresenceUnknown => CoverageState::PresenceUnknown,
            Self::OverPlan => CoverageState::OverPlan,
            Self::NoPermission => CoverageState::NoPermission,
            Self::Invalid => CoverageState::Invalid,
            Self::Quarantined => CoverageState::Quarantined,
        })
    }
}

/// To protobuf.
pub fn person_coverage(upn: &str, state: CoverageState, since: Timestamp) -> v1::PersonCoverage {
    v1::PersonCoverage {
        upn: upn.to_owned(),
        state: v1::CoverageState::from(state) as i32,
        detail: state.detail().to_owned(),
        since: Some(timestamp(since)),
    }
}

/// To protobuf. `cadence` is absent while nothing is read.
pub fn health(health: &Health, cadence: Option<Duration>) -> v1::TenantStatus {
    let state = match health.state {
        HealthState::Pending => v1::TenantState::Pending,
        HealthState::Connected => v1::TenantState::Connected,
        HealthState::Degraded => v1::TenantState::Degraded,
        HealthState::NeedsReauthorization => v1::TenantState::NeedsReauthorization,
        HealthState::NeedsAdministrator => v1::TenantState::NeedsAdministrator,
        HealthState::Suspended => v1::TenantState::Suspended,
        HealthState::Gone => v1::TenantState::Gone,
    };
    let cause = health.cause.as_ref();
    v1::TenantStatus {
        state: state as i32,
        cause: cause.map(|c| c.text.clone()).unwrap_or_default(),
        remedy: cause.map(|c| c.remedy.clone()).unwrap_or_default(),
        since: Some(timestamp(health.since)),
        cadence: cadence.map(duration),
        code: cause.map(|c| c.code.clone()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_presence_survives_the_wire() {
        for availability in Availability::KNOWN
            .iter()
            .cloned()
            .chain([Availability::Other("Hibernating".into())])
        {
            for activity in Activity::KNOWN
                .iter()
                .cloned()
                .chain([Activity::Other("Dreaming".into())])
            {
                let sent = Presence {
                    availability: availability.clone(),
                    activity,
                    out_of_office: Some(true),
                    status_message: Some("back at 3".into()),
                    work_location: Some(WorkLocation::Remote),
                };
                let wire = presence(
                    "Ann@x.com",
                    &sent,
                    Sequence(4),
                    Timestamp::from_secs(2),
                    Timestamp::from_secs(1),
                );
                assert_eq!(wire.upn, "Ann@x.com");
                assert_eq!(Presence::from(&wire), sent);
            }
        }
    }

    #[test]
    fn times_survive_the_wire_and_nonsense_is_refused() {
        for ms in [-1, 0, 1, 1_763_856_000_250] {
            let at = Timestamp::from_millis(ms);
            assert_eq!(Timestamp::try_from(timestamp(at)), Ok(at));
        }
        let far = prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        };
        assert_eq!(Timestamp::try_from(far), Err(InvalidTime));
    }
}
