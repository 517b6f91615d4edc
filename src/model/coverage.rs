/// What holds for one watched UPN. Design decision 8: coverage is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CoverageState {
    /// Read at every sweep.
    Monitored,
    /// Being looked up at Microsoft.
    Resolving,
    /// No such person in this tenant; a person of another tenant gives the same answer.
    NotFound,
    /// The same UPN is watched in another spelling.
    Duplicate,
    /// A guest, whose presence lives in another tenant.
    Guest,
    /// Microsoft answers that it does not know this person's presence.
    PresenceUnknown,
    /// More people than the plan allows.
    OverPlan,
    /// The connection may not read this person.
    NoPermission,
    /// Not a UPN.
    Invalid,
    /// Microsoft refuses requests that contain this person; tried again from time to time.
    Quarantined,
}

impl CoverageState {
    /// The word for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Monitored => "monitored",
            Self::Resolving => "resolving",
            Self::NotFound => "not_found",
            Self::Duplicate => "duplicate",
            Self::Guest => "guest",
            Self::PresenceUnknown => "presence_unknown",
            Self::OverPlan => "over_plan",
            Self::NoPermission => "no_permission",
            Self::Invalid => "invalid",
            Self::Quarantined => "quarantined",
        }
    }

    /// What it means and what can be done, in plain words; empty when all is well.
    pub fn detail(self) -> &'static str {
        match self {
            Self::Monitored => "",
            Self::Resolving => "Microsoft is being asked for this person.",
            Self::NotFound => {
                "This organisation has no such person. Check the spelling, or whether the account was renamed or deleted."
            }
            Self::Duplicate => "The same name is already watched in another spelling.",
            Self::Guest => {
                "A guest account: the presence is kept in the guest's own organisation and cannot be read here."
            }
            Self::PresenceUnknown => {
                "Microsoft does not know this person's presence: no Teams licence, no cloud mailbox, or presence sharing is off."
            }
            Self::OverPlan => {
                "More people are watched than the plan allows. Remove some, or extend the plan."
            }
            Self::NoPermission => {
                "The connection to Microsoft lacks the permission to read this person."
            }
            Self::Invalid => "This is not a UPN. A UPN looks like name@domain.",
            Self::Quarantined => {
                "Microsoft refuses every request that contains this person. It is tried again from time to time."
            }
        }
    }
}
