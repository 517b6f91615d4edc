//! The short way to read an answer about presence: when everything in it is of the kind Microsoft documents, nothing is copied that is not
//! kept. Whatever is not so is left to the patient reader, who takes what he can.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::model::{Presence, UserId, WorkLocation};

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    value: Vec<Entry<'a>>,
    /// There is more, which the patient reader asks for.
    #[serde(rename = "@odata.nextLink")]
    next: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    availability: Option<Text<'a>>,
    #[serde(borrow)]
    activity: Option<Text<'a>>,
    #[serde(borrow)]
    status_message: Option<StatusMessage<'a>>,
    out_of_office_settings: Option<OutOfOffice>,
    #[serde(borrow)]
    work_location: Option<WorkPlace<'a>>,
}

#[derive(Deserialize)]
struct StatusMessage<'a> {
    #[serde(borrow)]
    message: Option<Message<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<Text<'a>>,
    #[serde(borrow)]
    content_type: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OutOfOffice {
    is_out_of_office: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WorkPlace<'a> {
    #[serde(borrow)]
    work_location_type: Option<Text<'a>>,
}

fn text<'a>(text: Option<&'a Text<'_>>) -> Option<&'a str> {
    text.map(|Text(text)| &**text)
}

/// All entries that have a well-formed id. `None`: the patient reader is wanted.
pub(super) fn presences(body: &[u8]) -> Option<impl Iterator<Item = (UserId, Presence)>> {
    let page: Page<'_> = serde_json::from_slice(body).ok()?;
    if page.next.is_some() {
        return None;
    }
    let entries = page.value.into_iter().filter_map(|entry| {
        let id = entry.id.0.parse().ok()?;
        let message = entry.status_message.and_then(|status| status.message);
        let plain = message
            .as_ref()
            .and_then(|message| text(message.content_type.as_ref()))
            .is_none_or(|kind| kind.eq_ignore_ascii_case("text"));
        let content = message
            .as_ref()
            .and_then(|message| text(message.content.as_ref()))
            .filter(|_| plain);
        let (availability, activity) = (
            text(entry.availability.as_ref()),
            text(entry.activity.as_ref()),
        );
        let mut presence =
            Presence::from_microsoft(availability, activity).with_status_message(content);
        presence.out_of_office = entry
            .out_of_office_settings
            .and_then(|of| of.is_out_of_office);
        presence.work_location = entry
            .work_location
            .and_then(|place| WorkLocation::parse(text(place.work_location_type.as_ref())?));
        Some((id, presence))
    });
    Some(entries)
}
