use std::sync::Arc;

macro_rules! microsoft_enum {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum $name {
            $(
                #[doc = concat!("`", $text, "`")]
                $variant,
            )+
            /// A value this version does not know, in Microsoft's own words.
            Other(Arc<str>),
        }

        impl $name {
            /// Every known value.
            pub const KNOWN: &'static [Self] = &[$(Self::$variant),+];

            /// The known value, in whatever letter case Microsoft wrote it.
            pub fn parse_known(text: &str) -> Option<Self> {
                $(if text.eq_ignore_ascii_case($text) { return Some(Self::$variant); })+
                None
            }

            /// Microsoft's usual spelling, or its own words for an unknown value.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other(text) => text,
                }
            }
        }
    };
}

microsoft_enum! {
    /// Microsoft's base state. Values: `microsoft-graph.md` §6.1, classic list.
    Availability {
        Available = "Available",
        AvailableIdle = "AvailableIdle",
        Away = "Away",
        BeRightBack = "BeRightBack",
        Busy = "Busy",
        BusyIdle = "BusyIdle",
        DoNotDisturb = "DoNotDisturb",
        Offline = "Offline",
        PresenceUnknown = "PresenceUnknown",
    }
}

microsoft_enum! {
    /// Microsoft's refinement. Values: `microsoft-graph.md` §6.1, classic list and the extra ones met elsewhere.
    Activity {
        Available = "Available",
        Away = "Away",
        BeRightBack = "BeRightBack",
        Busy = "Busy",
        DoNotDisturb = "DoNotDisturb",
        InACall = "InACall",
        InAConferenceCall = "InAConferenceCall",
        Inactive = "Inactive",
        InAMeeting = "InAMeeting",
        Offline = "Offline",
        OffWork = "OffWork",
        OutOfOffice = "OutOfOffice",
        PresenceUnknown = "PresenceUnknown",
        Presenting = "Presenting",
        UrgentInterruptionsOnly = "UrgentInterruptionsOnly",
        Focusing = "Focusing",
        AvailableInactive = "AvailableInactive",
    }
}

microsoft_enum! {
    /// Where a person works from. Values: `microsoft-graph.md` §6.
    WorkLocation {
        Office = "office",
        Remote = "remote",
        TimeOff = "timeOff",
    }
}

impl WorkLocation {
    /// As Microsoft wrote it; `None` when it says that nothing is set.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.eq_ignore_ascii_case("unspecified") {
            return None;
        }
        Some(Self::parse_known(text).unwrap_or_else(|| Self::Other(text.into())))
    }
}

/// Longest text kept of an unknown value or a status message, in bytes: what a suite can show, and a bound on memory.
const MAX_TEXT_BYTES: usize = 512;

/// What Microsoft says of one person, without when it said so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Presence {
    /// Base state.
    pub availability: Availability,
    /// Refinement.
    pub activity: Activity,
    /// Whether the person is out of office; `None` when Microsoft did not say.
    pub out_of_office: Option<bool>,
    /// Status message as plain text. Personal data: kept only for tenants that allow it.
    pub status_message: Option<Arc<str>>,
    /// Where the person works from. Personal data: kept only for tenants that allow it.
    pub work_location: Option<WorkLocation>,
}

impl Presence {
    /// Microsoft does not know.
    pub const UNKNOWN: Self = Self {
        availability: Availability::PresenceUnknown,
        activity: Activity::PresenceUnknown,
        out_of_office: None,
        status_message: None,
        work_location: None,
    };

    /// Whether it is made of known words alone, so that many people show the same.
    pub fn is_common(&self) -> bool {
        !matches!(self.availability, Availability::Other(_))
            && !matches!(self.activity, Activity::Other(_))
            && !matches!(self.work_location, Some(WorkLocation::Other(_)))
            && self.status_message.is_none()
    }

    /// Reads Microsoft's two strings.
    ///
    /// Both are open sets, their letter case varies, and the current documentation lists some activities as availabilities
    /// (`microsoft-graph.md` §6.1), so any known word is accepted in either place. `None` counts as not known.
    pub fn from_microsoft(availability: Option<&str>, activity: Option<&str>) -> Self {
        let availability = availability.map(str::trim).filter(|t| !t.is_empty());
        let activity = activity.map(str::trim).filter(|t| !t.is_empty());
        let base = match availability {
            None => Availability::PresenceUnknown,
            Some(text) => Availability::parse_known(text)
                .or_else(|| Activity::parse_known(text).and_then(|a| a.base()))
                .unwrap_or_else(|| Availability::Other(clip(text))),
        };
        // An activity that stands in the availability field is the more telling of the two.
        let misplaced = availability
            .filter(|text| Availability::parse_known(text).is_none())
            .and_then(Activity::parse_known);
        let refinement = match (misplaced, activity) {
            (Some(activity), _) => activity,
            (None, None) => base.plain_activity(),
            (None, Some(text)) => {
                Activity::parse_known(text).unwrap_or_else(|| Activity::Other(clip(text)))
            }
        };
        Self {
            availability: base,
            activity: refinement,
            out_of_office: None,
            status_message: None,
            work_location: None,
        }
    }

    /// Adds a status message; blank ones count as none.
    #[must_use]
    pub fn with_status_message(mut self, text: Option<&str>) -> Self {
        self.status_message = text.map(str::trim).filter(|t| !t.is_empty()).map(clip);
        self
    }

    /// Whether Microsoft says that it does not know.
    pub fn is_unknown(&self) -> bool {
        self.availability == Availability::PresenceUnknown
    }
}

impl Availability {
    /// The activity that adds nothing.
    fn plain_activity(&self) -> Activity {
        match self {
            Self::Available => Activity::Available,
            Self::AvailableIdle | Self::BusyIdle => Activity::Inactive,
            Self::Away => Activity::Away,
            Self::BeRightBack => Activity::BeRightBack,
            Self::Busy => Activity::Busy,
            Self::DoNotDisturb => Activity::DoNotDisturb,
            Self::Offline => Activity::Offline,
            Self::PresenceUnknown => Activity::PresenceUnknown,
            Self::Other(text) => Activity::Other(text.clone()),
        }
    }
}

impl Activity {
    /// The base state an activity implies, where it implies one. `microsoft-graph.md` §6.2.
    fn base(&self) -> Option<Availability> {
        Some(match self {
            Self::Available | Self::AvailableInactive => Availability::Available,
            Self::Away | Self::Inactive => Availability::Away,
            Self::BeRightBack => Availability::BeRightBack,
            Self::Busy | Self::InACall | Self::InAConferenceCall | Self::InAMeeting => {
                Availability::Busy
            }
            Self::DoNotDisturb
            | Self::Presenting
            | Self::Focusing
            | Self::UrgentInterruptionsOnly => Availability::DoNotDisturb,
            Self::Offline | Self::OffWork => Availability::Offline,
            Self::PresenceUnknown => Availability::PresenceUnknown,
            Self::OutOfOffice | Self::Other(_) => return None,
        })
    }
}

/// At most [`MAX_TEXT_BYTES`] of a text from outside, without control characters.
fn clip(text: &str) -> Arc<str> {
    let mut out = String::new();
    for c in text.chars() {
        if out.len() + c.len_utf8() > MAX_TEXT_BYTES {
            break;
        }
        out.push(if c.is_control() { ' ' } else { c });
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_letter_cases_are_read() {
        let expected = Presence::from_microsoft(Some("DoNotDisturb"), Some("Presenting"));
        assert_eq!(expected.availability, Availability::DoNotDisturb);
        assert_eq!(expected.activity, Activity::Presenting);
        assert_eq!(
            Presence::from_microsoft(Some("doNotDisturb"), Some("presenting")),
            expected
        );
    }

    #[test]
    fn an_activity_in_the_wrong_field_is_understood() {
        let p = Presence::from_microsoft(Some("inACall"), Some("busy"));
        assert_eq!(
            (p.availability, p.activity),
            (Availability::Busy, Activity::InACall)
        );
        let p = Presence::from_microsoft(Some("focusing"), None);
        assert_eq!(
            (p.availability, p.activity),
            (Availability::DoNotDisturb, Activity::Focusing)
        );
    }

    #[test]
    fn unknown_words_are_kept() {
        let p = Presence::from_microsoft(Some("Hibernating"), Some("DeepSleep"));
        assert_eq!(p.availability.as_str(), "Hibernating");
        assert_eq!(p.activity.as_str(), "DeepSleep");
        assert!(!p.is_unknown());
    }

    #[test]
    fn nothing_said_is_unknown_never_offline() {
        assert_eq!(Presence::from_microsoft(None, None), Presence::UNKNOWN);
        assert_eq!(
            Presence::from_microsoft(Some(""), Some(" ")),
            Presence::UNKNOWN
        );
    }

    #[test]
    fn every_known_value_survives_the_round_trip() {
        for value in Availability::KNOWN {
            assert_eq!(
                Availability::parse_known(&value.as_str().to_lowercase()).as_ref(),
                Some(value)
            );
        }
        for value in Activity::KNOWN {
            assert_eq!(
                Activity::parse_known(&value.as_str().to_uppercase()).as_ref(),
                Some(value)
            );
        }
    }

    #[test]
    fn long_and_unprintable_texts_are_cut() {
        let p =
            Presence::UNKNOWN.with_status_message(Some(&format!("a\u{7}b{}", "ü".repeat(1000))));
        let text = p.status_message.unwrap();
        assert!(text.starts_with("a b") && text.len() <= MAX_TEXT_BYTES);
    }
}
